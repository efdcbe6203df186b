//! The kubelet's flags as arguments of `mainstay node`: made from the table of those that are fields of its configuration.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use mainstay_node::config::ConfigError;
use mainstay_node::config::flags::{FLAGS, Flag, Form, SWITCHES_WITHOUT_EFFECT, VALUES_WITHOUT_EFFECT};
use serde_json::Value;

/// What was given of them.
#[derive(Debug, Clone, Default)]
pub struct KubeletFlags {
    fields: Vec<(&'static Flag, Vec<String>)>,
    without_effect: Vec<&'static str>,
}

impl KubeletFlags {
    /// Writes them into a `KubeletConfiguration` document, over what is there.
    ///
    /// # Errors
    /// When a text is wrong; names the flag.
    pub fn put(&self, document: &mut Value) -> Result<(), ConfigError> {
        self.fields
            .iter()
            .try_for_each(|(flag, texts)| flag.put(texts, document))
    }

    /// One warning each for flags that change nothing.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let names = self.without_effect.iter();
        names.map(|name| format!("--{name} has no effect here"))
    }
}

fn switch(arg: Arg) -> Arg {
    arg.num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_name("BOOL")
}

fn field(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .help(format!("`{}` of the configuration", flag.field))
        .help_heading("Flags of the kubelet, which win over its configuration")
        .action(ArgAction::Append)
        .allow_hyphen_values(flag.form == Form::Number)
        .hide_short_help(true);
    match flag.form {
        Form::Switch => switch(arg),
        Form::Number => arg.value_name("NUMBER"),
        Form::Text => arg.value_name("TEXT"),
        Form::List => arg.value_name("LIST"),
        Form::Pairs(_) | Form::Gates => arg.value_name("PAIRS"),
        Form::Taints => arg.value_name("TAINTS"),
    }
}

fn without_effect(name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).action(ArgAction::Append).hide(true);
    let arg = if name == "v" { arg.short('v') } else { arg };
    match SWITCHES_WITHOUT_EFFECT.contains(&name) {
        true => switch(arg),
        false => arg.allow_hyphen_values(true),
    }
}

fn names_without_effect() -> impl Iterator<Item = &'static str> {
    let both = VALUES_WITHOUT_EFFECT.iter().chain(SWITCHES_WITHOUT_EFFECT);
    both.copied()
}

impl Args for KubeletFlags {
    fn augment_args(command: Command) -> Command {
        command
            .args(FLAGS.iter().map(field))
            .args(names_without_effect().map(without_effect))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeletFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let texts = |name: &str| -> Option<Vec<String>> {
            let texts = matches.get_many::<String>(name)?;
            Some(texts.cloned().collect())
        };
        Ok(KubeletFlags {
            fields: FLAGS
                .iter()
                .filter_map(|flag| Some((flag, texts(flag.name)?)))
                .collect(),
            without_effect: names_without_effect()
                .filter(|name| texts(name).is_some())
                .collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
