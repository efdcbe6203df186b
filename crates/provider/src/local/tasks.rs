//! Tasks as files: one per request, so that a request is known again and a task goes on after a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::record::{file_error, file_name, read_json, write_json};
use crate::{
    Error, HostId, PowerOperation, ProvisionRequest, RequestId, Result, Task, TaskKind, TaskState, Wipe,
};

/// How long any task may take. Measured: under 4 s; the rest is for a loaded computer.
const DEADLINE: Duration = Duration::from_secs(180);
/// Finished tasks that are kept to answer repeated requests.
const KEPT: usize = 1000;

/// What a task does, with all that is needed to do it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Job {
    Provision(Box<ProvisionRequest>),
    Power(PowerOperation),
    Deprovision(Wipe),
    StageImage(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    task: Task,
    /// Gone when the task has finished: join data is not kept longer than needed.
    job: Option<Job>,
}

/// All tasks of a provider.
pub(super) struct Tasks {
    folder: PathBuf,
    entries: Mutex<BTreeMap<RequestId, Entry>>,
}

impl Tasks {
    pub(super) fn open(folder: &Path) -> Result<Tasks> {
        std::fs::create_dir_all(folder).map_err(|error| file_error("create", folder, &error))?;
        let files = std::fs::read_dir(folder).map_err(|error| file_error("read", folder, &error))?;
        let mut entries = BTreeMap::new();
        for file in files
            .flatten()
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
        {
            if let Some(entry) = read_json::<Entry>(&file)? {
                entries.insert(entry.task.id.clone(), entry);
            }
        }
        Ok(Tasks {
            folder: folder.to_owned(),
            entries: Mutex::new(entries),
        })
    }

    /// The task of a request, and whether it is new.
    pub(super) fn begin(
        &self,
        id: &RequestId,
        host: &HostId,
        kind: TaskKind,
        job: &Job,
        now: Timestamp,
    ) -> Result<(Task, bool)> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(id) {
            return Ok((entry.task.clone(), false));
        }
        let task = Task {
            id: id.clone(),
            host: host.clone(),
            kind,
            state: TaskState::Running {
                step: "started".to_owned(),
            },
            started_at: now,
            deadline: now + DEADLINE,
        };
        let entry = Entry {
            task: task.clone(),
            job: Some(job.clone()),
        };
        write_json(&self.path(id), &entry)?;
        entries.insert(id.clone(), entry);
        self.forget_oldest(&mut entries);
        Ok((task, true))
    }

    pub(super) fn finish(&self, id: &RequestId, result: Result<()>) -> Result<()> {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(id) else {
            return Ok(());
        };
        entry.job = None;
        entry.task.state = match result {
            Ok(()) => TaskState::Done,
            Err(error) => TaskState::Failed {
                evidence: error.evidence().map(str::to_owned),
                message: error.to_string(),
            },
        };
        write_json(&self.path(id), entry)
    }

    /// Reads a task; one that runs past its deadline has failed.
    pub(super) fn get(&self, id: &RequestId, now: Timestamp) -> Result<Task> {
        let entries = self.entries.lock();
        let entry = entries.get(id).ok_or_else(|| Error::Invalid {
            field: "request",
            message: format!("no task has the id {id}"),
        })?;
        let mut task = entry.task.clone();
        if !task.finished() && now > task.deadline {
            let message = format!("not finished within {} s", DEADLINE.as_secs());
            task.state = TaskState::Failed {
                message,
                evidence: None,
            };
        }
        Ok(task)
    }

    /// Notes how far a task is, for whoever looks.
    pub(super) fn step(&self, id: &RequestId, step: &str) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.task.state = TaskState::Running {
                step: step.to_owned(),
            };
        }
    }

    pub(super) fn unfinished(&self) -> Vec<(Task, Job)> {
        let entries = self.entries.lock();
        entries
            .values()
            .filter_map(|entry| Some((entry.task.clone(), entry.job.clone()?)))
            .collect()
    }

    fn forget_oldest(&self, entries: &mut BTreeMap<RequestId, Entry>) {
        if entries.len() <= KEPT {
            return;
        }
        let finished = entries.values().filter(|entry| entry.task.finished());
        let oldest = finished
            .min_by_key(|entry| entry.task.started_at)
            .map(|entry| entry.task.id.clone());
        if let Some(id) = oldest {
            entries.remove(&id);
            // A file that stays is read again at the next start and forgotten then.
            let _ = std::fs::remove_file(self.path(&id));
        }
    }

    fn path(&self, id: &RequestId) -> PathBuf {
        self.folder.join(format!("{}.json", file_name(&id.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_known_again_and_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (id, host, now) = (
            RequestId("a/1".into()),
            HostId::new("d", "h"),
            Timestamp::UNIX_EPOCH,
        );
        let (kind, job) = (
            TaskKind::Power(PowerOperation::On),
            Job::Power(PowerOperation::On),
        );
        let tasks = Tasks::open(dir.path()).unwrap();
        assert!(tasks.begin(&id, &host, kind, &job, now).unwrap().1);
        assert!(!tasks.begin(&id, &host, kind, &job, now).unwrap().1);

        let tasks = Tasks::open(dir.path()).unwrap();
        assert_eq!(tasks.unfinished().len(), 1);
        let late = tasks.get(&id, now + DEADLINE * 2).unwrap();
        assert!(matches!(late.state, TaskState::Failed { .. }));
        tasks.finish(&id, Ok(())).unwrap();
        assert_eq!(Tasks::open(dir.path()).unwrap().unfinished().len(), 0);
        assert_eq!(tasks.get(&id, now + DEADLINE * 2).unwrap().state, TaskState::Done);
    }
}
