//! Agents with a folder of files, for tests of files, programs and the mark.
//!
//! They are under the suite's shared daemon. Each test has an agent, a policy and a folder of its own, by the test's
//! name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::harness::Daemon;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::trial::{Outcome, PASS, booted};

/// Trials that change mounts, drop caches and the like, and so run in a guest only.
pub(crate) fn trials(families: &[fn() -> Vec<Trial>]) -> Vec<Trial> {
    if booted().is_none() {
        return Vec::new();
    }
    families.iter().flat_map(|family| family()).collect()
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Adds to an error what was being done.
pub(crate) trait Context<T> {
    fn context(self, what: impl Display) -> Result<T, Failed>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Result<T, Failed> {
        self.map_err(|error| format!("{what}: {error}").into())
    }
}

/// One test's agent.
pub(crate) struct Agent {
    /// Its name, and its policy's.
    pub(crate) name: &'static str,
    /// A folder on the root file system.
    pub(crate) folder: PathBuf,
    policy: PathBuf,
}

/// How a command of an agent ended.
pub(crate) struct Ran {
    pub(crate) lines: Vec<String>,
    pub(crate) errors: String,
    pub(crate) code: i32,
}

/// What no rule names, where a test does not say otherwise.
pub(crate) const OPEN: &str = "[default]\nnetwork = \"allow\"\nfiles = \"allow\"\nexec = \"allow\"\n";

impl Agent {
    /// An agent under a policy of these sections; `@` in them is the agent's folder.
    pub(crate) fn new(name: &'static str, sections: &str) -> Result<Self, Failed> {
        Self::within("/srv/e2e", name, sections)
    }

    /// [`Self::new`] with the folder elsewhere.
    pub(crate) fn within(parent: &str, name: &'static str, sections: &str) -> Result<Self, Failed> {
        daemon()?;
        let folder = Path::new(parent).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).context(folder.display())?;
        }
        fs::create_dir_all(&folder).context(folder.display())?;
        fs::create_dir_all("/run/e2e-policies").context("/run/e2e-policies")?;
        let policy = PathBuf::from(format!("/run/e2e-policies/{name}.toml"));
        let default = if sections.contains("[default]") { "" } else { OPEN };
        let at = folder.display().to_string();
        let text =
            format!("version = 1\nname = \"{name}\"\nlog = \"all\"\n{default}{}", sections.replace('@', &at));
        fs::write(&policy, text).context(policy.display())?;
        Ok(Self { name, folder, policy })
    }

    /// A path within the folder.
    pub(crate) fn at(&self, path: &str) -> String {
        if path.is_empty() {
            self.folder.display().to_string()
        } else {
            format!("{}/{path}", self.folder.display())
        }
    }

    /// The file of its policy.
    pub(crate) fn policy(&self) -> &Path {
        &self.policy
    }

    /// Makes a file within the folder, with the folders that it needs.
    pub(crate) fn file(&self, path: &str) -> Result<String, Failed> {
        let path = self.at(path);
        if let Some(folder) = Path::new(&path).parent() {
            fs::create_dir_all(folder).context(folder.display())?;
        }
        fs::write(&path, "text\n").context(&path)?;
        Ok(path)
    }

    /// Starts a command as this agent.
    pub(crate) fn start(&self, command: &[&str]) -> Result<Child, Failed> {
        let mut enforcer = daemon()?.command(&["run"]);
        enforcer.arg("--policy").arg(&self.policy).args(["--agent", self.name, "--"]).args(command);
        enforcer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        enforcer.spawn().context("enforcer run")
    }

    /// Runs a command as this agent.
    pub(crate) fn run(&self, command: &[&str]) -> Result<Ran, Failed> {
        finish(self.start(command)?)
    }

    /// Takes steps as this agent, `@` in them being the folder, and tells how each ended.
    pub(crate) fn steps(&self, steps: &[&str]) -> Result<Vec<String>, Failed> {
        let steps: Vec<_> = steps.iter().map(|step| step.replace('@', &self.at(""))).collect();
        let mut command = vec!["actor"];
        command.extend(steps.iter().map(String::as_str));
        let ran = self.run(&command)?;
        if ran.code != 0 || ran.lines.len() != steps.len() {
            return Err(format!(
                "{} of {} steps, exit {}: {}",
                ran.lines.len(),
                steps.len(),
                ran.code,
                ran.errors
            )
            .into());
        }
        Ok(ran.lines)
    }

    /// Takes steps, each with how it must end.
    pub(crate) fn expect(&self, steps: &[(&str, &str)]) -> Result<(), Failed> {
        compare(steps, &self.steps(&steps.iter().map(|(step, _)| *step).collect::<Vec<_>>())?)
    }

    /// [`Self::expect`], and nobody is asked: no request waits when the steps are taken. With the agent its requests
    /// would go too, so it is still there then.
    pub(crate) fn expect_unasked(&self, steps: &[(&str, &str)]) -> Result<(), Failed> {
        let go = self.at("go");
        let wait = format!("wait {go}");
        let mut command = vec!["actor".to_owned()];
        command.extend(steps.iter().map(|(step, _)| step.replace('@', &self.at(""))));
        command.push(wait);
        let mut child = self.start(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let ends = lines.by_ref().take(steps.len()).collect::<Result<Vec<_>, _>>().context("the actor")?;
        let waits = self.waits();
        fs::write(&go, "").context(&go)?;
        child.wait().context("wait")?;
        compare(steps, &ends)?;
        same(&waits?, &false).map(drop)
    }

    /// Moves running processes into this agent.
    pub(crate) fn attach(&self, pid: u32) -> Result<(), Failed> {
        let mut enforcer = daemon()?.command(&["attach"]);
        enforcer.arg("--policy").arg(&self.policy).args(["--agent", self.name]).arg(pid.to_string());
        succeed(&mut enforcer).map(drop)
    }

    /// This agent's events, once no more come.
    pub(crate) fn events(&self) -> Result<Vec<Value>, Failed> {
        let file = daemon()?.events_file();
        let mut last = usize::MAX;
        loop {
            let text = fs::read_to_string(&file).context(file.display())?;
            let events: Vec<Value> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .filter(|event: &Value| text_of(event, "agent") == self.name)
                .collect();
            if events.len() == last {
                return Ok(events);
            }
            last = events.len();
            sleep(Duration::from_millis(700));
        }
    }

    /// How many events of each action and verdict the objects in the folder have, as `open block secret/key`.
    pub(crate) fn tally(&self) -> Result<BTreeMap<String, usize>, Failed> {
        self.tally_of(&self.at("/").replace("//", "/"))
    }

    /// [`Self::tally`] of paths with another beginning.
    pub(crate) fn tally_of(&self, begin: &str) -> Result<BTreeMap<String, usize>, Failed> {
        let mut tally = BTreeMap::new();
        for event in self.events()? {
            if let Some(name) = text_of(&event, "path").strip_prefix(begin) {
                let what = format!("{} {} {name}", text_of(&event, "action"), text_of(&event, "verdict"));
                *tally.entry(what).or_default() += 1;
            }
        }
        Ok(tally)
    }

    /// The request of this agent that waits, once one does.
    pub(crate) fn request(&self) -> Result<String, Failed> {
        eventually("a request", || {
            let list = enforcer(&["approvals", "list", "--json"])?;
            let list: Value = serde_json::from_str(&list).context(&list)?;
            let ours =
                list.as_array().into_iter().flatten().find(|request| text_of(request, "agent") == self.name);
            Ok(ours.map(|request| text_of(request, "id").to_owned()))
        })
    }

    /// Takes a step that needs a person, has the request answered with this word of `enforcer approvals`, and takes it
    /// twice more; how each of the three ended.
    pub(crate) fn ask(&self, step: &str, answer: &str) -> Result<[String; 3], Failed> {
        let answered = self.at("answered");
        let _ = fs::remove_file(&answered);
        let step = step.replace('@', &self.at(""));
        let child = self.start(&["actor", &step, &format!("wait {answered}"), &step, &step])?;
        enforcer(&["approvals", answer, &self.request()?])?;
        fs::write(&answered, "").context(&answered)?;
        let ran = finish(child)?;
        match <[String; 4]>::try_from(ran.lines) {
            Ok([first, _, second, third]) => Ok([first, second, third]),
            Err(lines) => Err(format!("{lines:?} {}", ran.errors).into()),
        }
    }

    /// Whether a request of this agent waits.
    fn waits(&self) -> Result<bool, Failed> {
        let list = enforcer(&["approvals", "list", "--json"])?;
        let list: Value = serde_json::from_str(&list).context(&list)?;
        Ok(list.as_array().into_iter().flatten().any(|request| text_of(request, "agent") == self.name))
    }

    /// The folder of this agent's cgroup.
    pub(crate) fn cgroup(&self) -> Result<String, Failed> {
        eventually("the agent's cgroup", || {
            let list = enforcer(&["agents", "--json"])?;
            let list: Value = serde_json::from_str(&list).context(&list)?;
            let ours =
                list.as_array().into_iter().flatten().find(|agent| text_of(agent, "agent") == self.name);
            Ok(ours.map(|agent| text_of(agent, "cgroup").to_owned()).filter(|path| Path::new(path).is_dir()))
        })
    }
}

/// A member of a JSON object that is text.
pub(crate) fn text_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Waits for something that comes in a while.
pub(crate) fn eventually<T>(
    what: &str,
    look: impl FnMut() -> Result<Option<T>, Failed>,
) -> Result<T, Failed> {
    within(PATIENCE, what, look)
}

/// [`eventually`], for what takes longer, or may not take as long.
pub(crate) fn within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, Failed>,
) -> Result<T, Failed> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(found) = look()? {
            return Ok(found);
        }
        sleep(Duration::from_millis(50));
    }
    Err(format!("{what}: not within {} s", patience.as_secs()).into())
}

/// Waits for a started command.
pub(crate) fn finish(child: Child) -> Result<Ran, Failed> {
    let output = child.wait_with_output().context("wait")?;
    Ok(Ran {
        lines: String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    })
}

/// Runs a command that must succeed; what it printed.
pub(crate) fn succeed(command: &mut Command) -> Result<String, Failed> {
    let output = command.stdin(Stdio::null()).output().context(command.get_program().display())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Runs `enforcer` with these arguments.
pub(crate) fn enforcer(arguments: &[&str]) -> Result<String, Failed> {
    succeed(&mut daemon()?.command(arguments))
}

/// Runs a line of shell outside governance.
pub(crate) fn shell(line: &str) -> Result<String, Failed> {
    succeed(Command::new("bash").args(["-ec", line]))
}

/// Each step ended as it must.
fn compare(steps: &[(&str, &str)], ends: &[String]) -> Result<(), Failed> {
    let wrong: Vec<_> = steps
        .iter()
        .zip(ends)
        .filter(|((_, expected), end)| expected != end)
        .map(|((step, expected), end)| format!("`{step}`: {end}, expected {expected}"))
        .collect();
    same(&ends.len(), &steps.len())?;
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ").into()) }
}

/// The two are the same.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(met: &T, expected: &T) -> Outcome {
    if met == expected { Ok(PASS) } else { Err(format!("{met:?}, expected {expected:?}").into()) }
}

/// A tally as [`Agent::tally`] gives it.
pub(crate) fn tally<const N: usize>(entries: [(&str, usize); N]) -> BTreeMap<String, usize> {
    entries.into_iter().map(|(what, count)| (what.to_owned(), count)).collect()
}

fn daemon() -> Result<&'static Daemon, Failed> {
    Daemon::shared().map_err(Failed::from)
}
