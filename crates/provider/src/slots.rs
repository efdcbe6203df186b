//! The rule of the two image slots, the same for every provider: a new commit gets a few starts to be confirmed
//! good, else the machine falls back to the last good one and says so.

use crate::{Error, ImageSlots, Result};

/// Starts that an unconfirmed commit gets.
pub(crate) const TRIES: u32 = 2;

impl ImageSlots {
    /// Slots of a machine that was just provisioned: there is nothing to fall back to.
    pub(crate) fn provisioned(commit: &str) -> ImageSlots {
        ImageSlots {
            booted: commit.to_owned(),
            ..ImageSlots::default()
        }
    }

    /// Decides what the start that is about to happen boots. To be saved before anything is started, so that a
    /// power loss counts as a failed try.
    pub(crate) fn begin_start(&mut self) {
        match self.staged.take() {
            Some(staged) if self.previous.as_ref() == Some(&staged) => self.return_to_previous(),
            Some(staged) if staged != self.booted => self.begin_trial(staged),
            _ if self.tries_left > 1 => self.tries_left -= 1,
            _ if self.tries_left == 1 => {
                self.last_failure = Some(format!(
                    "commit {} was not confirmed good in {TRIES} starts",
                    self.booted
                ));
                self.return_to_previous();
            }
            _ => {}
        }
    }

    fn begin_trial(&mut self, staged: String) {
        let old = std::mem::replace(&mut self.booted, staged);
        // An unconfirmed commit is no place to fall back to.
        if self.tries_left == 0 {
            self.previous = Some(old);
        }
        self.tries_left = TRIES;
    }

    fn return_to_previous(&mut self) {
        if let Some(good) = self.previous.take() {
            self.booted = good;
        }
        self.tries_left = 0;
    }

    /// The commit of the next start, once this one works.
    pub(crate) fn stage(&mut self, commit: &str) {
        self.staged = (commit != self.booted).then(|| commit.to_owned());
    }

    /// The booted commit is good.
    pub(crate) fn confirm(&mut self) {
        self.tries_left = 0;
        self.last_failure = None;
    }

    /// The next start boots the previous good commit again.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        let previous = self.previous.clone().ok_or_else(|| Error::Invalid {
            field: "image.previous",
            message: "there is no earlier image to go back to".to_owned(),
        })?;
        self.last_failure = Some(format!("commit {} was rolled back", self.booted));
        self.staged = Some(previous);
        Ok(())
    }

    /// Every commit that must stay on the host.
    pub fn commits(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.booted)
            .chain(&self.staged)
            .chain(&self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(slots: &ImageSlots) -> String {
        format!(
            "{} (staged {}, previous {}, tries {}) {}",
            slots.booted,
            slots.staged.as_deref().unwrap_or("-"),
            slots.previous.as_deref().unwrap_or("-"),
            slots.tries_left,
            slots.last_failure.as_deref().unwrap_or("")
        )
        .trim_end()
        .to_owned()
    }

    #[test]
    fn an_unconfirmed_commit_falls_back_after_its_tries_even_when_power_is_lost_each_time() {
        let mut slots = ImageSlots::provisioned("a");
        slots.stage("b");
        assert_eq!(show(&slots), "a (staged b, previous -, tries 0)");
        slots.begin_start();
        assert_eq!(show(&slots), "b (staged -, previous a, tries 2)");
        slots.begin_start();
        assert_eq!(show(&slots), "b (staged -, previous a, tries 1)");
        slots.begin_start();
        assert_eq!(
            show(&slots),
            "a (staged -, previous -, tries 0) commit b was not confirmed good in 2 starts"
        );
        slots.begin_start();
        assert_eq!(slots.booted, "a");
    }

    #[test]
    fn a_second_trial_falls_back_to_the_last_good_commit_not_to_the_first_trial() {
        let mut slots = ImageSlots::provisioned("a");
        slots.stage("b");
        slots.begin_start();
        slots.stage("c");
        slots.begin_start();
        assert_eq!(show(&slots), "c (staged -, previous a, tries 2)");
        slots.confirm();
        slots.begin_start();
        assert_eq!(show(&slots), "c (staged -, previous a, tries 0)");
    }

    #[test]
    fn a_rollback_takes_effect_with_the_next_start_and_is_no_trial() {
        let mut slots = ImageSlots::provisioned("a");
        assert!(slots.roll_back().is_err());
        slots.stage("b");
        slots.begin_start();
        slots.confirm();
        slots.roll_back().unwrap();
        assert_eq!(slots.booted, "b");
        slots.begin_start();
        assert_eq!(
            show(&slots),
            "a (staged -, previous -, tries 0) commit b was rolled back"
        );
    }
}
