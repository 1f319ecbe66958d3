//! What to run: a tier, a profile, a seed, a mistake put in by hand, and what is left out.

use norn_planted::Bug as Plant;

use crate::less::Less;
use crate::options::{BUGS, Bug, Options, Profile};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    #[default]
    Core,
    Cluster,
}

impl Tier {
    pub fn name(self) -> &'static str {
        match self {
            Tier::Core => "core",
            Tier::Cluster => "cluster",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    pub tier: Tier,
    pub profile: Profile,
    pub seed: u64,
    /// A mistake of the core tier's harness.
    pub bug: Option<Bug>,
    /// A mistake in the server.
    pub plant: Option<Plant>,
    pub less: Less,
}

pub fn profile(name: &str) -> Option<Profile> {
    Some(match name {
        "swarm" => Profile::Swarm,
        "calm" => Profile::Calm,
        "storm" => Profile::Storm,
        "ruin" => Profile::Ruin,
        "busy" => Profile::Busy,
        _ => return None,
    })
}

fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Swarm => "swarm",
        Profile::Calm => "calm",
        Profile::Storm => "storm",
        Profile::Ruin => "ruin",
        Profile::Busy => "busy",
    }
}

impl Case {
    pub fn options(&self) -> Options {
        let mut options = Options::draw(self.seed, self.profile, self.bug);
        self.less.apply(&mut options);
        options
    }

    /// Takes one flag of a command line with its value; false: it is none of a case.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn take(
        &mut self,
        flag: &str,
        value: impl FnOnce() -> Result<String, String>,
    ) -> Result<bool, String> {
        match flag {
            "--seed" => {
                let text = value()?;
                self.seed = text.parse().map_err(|e| format!("{text}: {e}"))?;
            }
            "--tier" => {
                self.tier = match value()?.as_str() {
                    "core" => Tier::Core,
                    "cluster" => Tier::Cluster,
                    other => return Err(format!("no tier {other}")),
                };
            }
            "--profile" => {
                let name = value()?;
                self.profile = profile(&name).ok_or(format!("no profile {name}"))?;
            }
            "--bug" => {
                let name = value()?;
                let found = BUGS.iter().find(|(n, _)| *n == name);
                self.bug = Some(found.ok_or(format!("no bug {name}"))?.1);
            }
            "--plant" => {
                let name = value()?;
                let found = Plant::ALL.iter().find(|bug| bug.name() == name);
                self.plant = Some(*found.ok_or(format!("no planted bug {name}"))?);
            }
            "--less" => self.less = Less::parse(&value()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The flags that say it, without what goes without saying.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--seed".to_owned(), self.seed.to_string()];
        let mut flag = |name: &str, value: &str| flags.extend([name.to_owned(), value.to_owned()]);
        if self.profile != Profile::Swarm {
            flag("--profile", profile_name(self.profile));
        }
        if self.tier != Tier::Core {
            flag("--tier", self.tier.name());
        }
        if let Some((name, _)) = BUGS.iter().find(|(_, bug)| Some(*bug) == self.bug) {
            flag("--bug", name);
        }
        if let Some(plant) = self.plant {
            flag("--plant", plant.name());
        }
        if self.less != Less::default() {
            flag("--less", &self.less.to_string());
        }
        flags
    }

    /// The line that runs it.
    pub fn line(&self) -> String {
        format!("cargo sim run {}", self.flags().join(" "))
    }

    /// For the name of a file about it.
    pub fn name(&self) -> String {
        let (tier, profile) = (self.tier.name(), profile_name(self.profile));
        let bug = BUGS.iter().find(|(_, bug)| Some(*bug) == self.bug).map(|(name, _)| *name);
        let mistake = bug.or(self.plant.map(Plant::name));
        let mistake = mistake.map_or(String::new(), |name| format!("-{name}"));
        format!("{tier}-{profile}-{}{mistake}", self.seed)
    }
}

/// The seeds of a file: a number, words with `@` for tier and profile, and a line of history.
///
/// # Errors
/// The line that is none of these.
pub fn cases(text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(seed) = words.next() else { continue };
        let seed = seed.parse().map_err(|e| format!("{line}: {e}"))?;
        let mut case = Case { seed, ..Case::default() };
        for word in words.map_while(|word| word.strip_prefix('@')) {
            match (word, profile(word)) {
                ("cluster", _) => case.tier = Tier::Cluster,
                (_, Some(profile)) => case.profile = profile,
                _ => return Err(format!("{line}: no tier or profile {word}")),
            }
        }
        cases.push(case);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_say_where_they_belong() {
        let text = "# seeds\n7 once failed\n8 @cluster @storm also @home\n";
        let seven = Case { seed: 7, ..Case::default() };
        let (tier, profile) = (Tier::Cluster, Profile::Storm);
        let eight = Case { tier, profile, seed: 8, ..Case::default() };
        assert_eq!(cases(text).unwrap(), [seven, eight]);
        assert!(cases("9 @nowhere").is_err());
    }

    #[test]
    fn flags_say_all_of_it() {
        let case = Case {
            tier: Tier::Cluster,
            profile: Profile::Storm,
            seed: 8,
            bug: None,
            plant: Some(Plant::WatchSkips),
            less: Less { ops: Some(3), ..Less::default() },
        };
        let line = "--seed 8 --profile storm --tier cluster --plant WatchSkips --less ops=3";
        assert_eq!(case.flags().join(" "), line);
        let (mut read, flags) = (Case::default(), case.flags());
        for pair in flags.chunks(2) {
            assert_eq!(read.take(&pair[0], || Ok(pair[1].clone())), Ok(true));
        }
        assert_eq!(read, case);
    }
}
