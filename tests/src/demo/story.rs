//! The story, from the first allowed request to the last line of `enforcer unload`. Each part says what is to be
//! seen, has it happen, and checks that it did.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use serde_json::Value;

use crate::agent::{Outcome, Tool};
use crate::screen::{Screen, Voice};
use crate::servers::{Server, Servers};
use crate::stage::{self, Stage, at};

/// One token of the rule `search` comes back in five seconds.
const TOKEN: Duration = Duration::from_secs(5);

/// For how long it is looked whether the agent goes on.
const LOOK: Duration = Duration::from_secs(1);

/// Tells it; fails when anything did not come out as told.
pub(crate) fn tell(screen: &mut Screen) -> Result<()> {
    let begun = Instant::now();
    let policy = policy()?;
    let servers = Servers::start()?;
    let mut show = Show { screen, stage: Stage::set()?, servers, checks: 0, wrong: 0 };
    show.opening(&policy)?;
    show.allowed()?;
    show.blocked()?;
    show.explained()?;
    show.throttled()?;
    show.redirected()?;
    show.escalated()?;
    show.rejected()?;
    show.counted()?;
    show.outlives_the_daemon()?;
    show.ending()?;
    let (checks, wrong) = (show.checks, show.wrong);
    if wrong > 0 {
        bail!("{wrong} of {checks} things did not come out as told");
    }
    let seconds = begun.elapsed().as_secs();
    println!("\nAll {checks} things came out as told, in {seconds} seconds.");
    Ok(())
}

/// Where `policies/demo.toml` is.
fn policy() -> Result<PathBuf> {
    let folder = std::env::var_os("ENFORCER_POLICIES").map_or_else(|| "policies".into(), PathBuf::from);
    let policy = folder.join("demo.toml");
    std::fs::canonicalize(&policy).with_context(|| format!("find the policy {}", policy.display()))
}

struct Show<'a> {
    screen: &'a mut Screen,
    stage: Stage,
    servers: Servers,
    checks: usize,
    wrong: usize,
}

impl Show<'_> {
    fn say(&self, text: &str) {
        self.screen.say(Voice::Story, text);
    }

    fn check(&mut self, is_so: bool, told: &str) {
        self.checks += 1;
        if !is_so {
            self.wrong += 1;
            self.screen.wrong(told);
        }
    }

    /// The agent does something, and says what came of it.
    fn agent(&mut self, tool: &Tool) -> Result<Outcome> {
        self.stage.begin(tool)?;
        self.outcome(tool)
    }

    /// Says what came of what the agent began.
    fn outcome(&mut self, tool: &Tool) -> Result<Outcome> {
        let outcome = self.stage.outcome(tool)?;
        let came = match &outcome {
            Outcome::Done { text, peer: Some(peer) } => format!("\"{text}\", from {peer}"),
            Outcome::Done { text, peer: None } if text.lines().count() > 1 => format!("\n{text}"),
            Outcome::Done { text, peer: None } => text.trim_end().to_owned(),
            Outcome::Failed { errno } => {
                let errno = Errno::from_raw(*errno);
                format!("{errno:?}: {}", errno.desc())
            }
        };
        self.screen.say(Voice::Agent, &format!("{:<53} {came}", tool.to_string()));
        Ok(outcome)
    }

    fn get(&mut self, server: &Server, path: &str) -> Result<Outcome> {
        self.agent(&Tool::Get { server: server.address, path: path.to_owned() })
    }

    /// The agent does something that must work.
    fn works(&mut self, tool: &Tool) -> Result<()> {
        let outcome = self.agent(tool)?;
        self.check(outcome.text().is_some(), "it should have worked");
        Ok(())
    }

    /// The agent does something that must fail with that error, and an event must tell it.
    fn fails(&mut self, tool: &Tool, errno: Errno, verdict: &str, object: &str) -> Result<()> {
        let outcome = self.agent(tool)?;
        self.check(outcome.is(errno), &format!("it should have failed with {errno:?}"));
        self.event(verdict, object);
        Ok(())
    }

    /// There must be such an event.
    fn event(&mut self, verdict: &str, object: &str) {
        let event = self.stage.event(verdict, object);
        if let Some(event) = &event {
            self.screen.say(Voice::Event, &sentence(event));
        }
        self.check(event.is_some(), &format!("no event tells `{verdict}` on {object}"));
    }

    /// The person runs a command.
    fn person(&self, words: &[&str]) -> Result<String> {
        let printed = stage::ask(words)?;
        self.screen.say(Voice::Person, &format!("$ enforcer {}\n{printed}", typed(words)));
        Ok(printed)
    }

    fn opening(&mut self, policy: &Path) -> Result<()> {
        let kernel = nix::sys::utsname::uname().context("the kernel's name")?;
        println!("One agent, five verdicts. The kernel is Linux {}.", kernel.release().to_string_lossy());
        self.screen
            .heading("The policy is loaded and the agent started, governed before its first instruction");
        let took = self.stage.start_daemon()?;
        let took = took.as_secs_f64();
        self.screen.say(Voice::Person, &format!("$ enforcer daemon &\nready after {took:.1} s"));
        let line = format!(
            "$ enforcer run --policy policies/demo.toml --agent {} -- enforcer-demo agent",
            stage::AGENT
        );
        self.screen.say(Voice::Person, &line);
        self.stage.start_agent(policy)?;
        self.works(&start(&["id", "-un"]))
    }

    fn allowed(&mut self) -> Result<()> {
        self.screen.heading("Allowed: nothing is seen of it but a count");
        let model = self.servers.model.clone();
        let answer = self.get(&model, "/v1/messages")?;
        self.check(answer.text().is_some(), "the model should have answered");
        let notes = at("workspace/notes.txt");
        self.works(&Tool::Write(notes.clone(), "orders fell in May".to_owned()))?;
        self.works(&Tool::Read(notes))?;
        self.works(&start(&["uname", "-sm"]))
    }

    fn blocked(&mut self) -> Result<()> {
        self.screen.heading("Blocked: EPERM at once, on the network, on files and on programs");
        let elsewhere = self.servers.elsewhere.clone();
        let address = elsewhere.address;
        let leak = Tool::Get { server: address, path: "/?data=orders".to_owned() };
        self.fails(&leak, Errno::EPERM, "block", &format!("tcp {address}"))?;
        self.check(elsewhere.requests() == 0, "nothing should have reached the server");
        let secret = at("secrets/api-key");
        self.fails(&Tool::Read(secret.clone()), Errno::EPERM, "block", &shown(&secret))?;
        let roundabout = at("workspace/../secrets/api-key");
        self.fails(&Tool::Read(roundabout), Errno::EPERM, "block", &shown(&secret))?;
        let job = Path::new("/etc/enforcer-demo.conf");
        let job_tool = Tool::Write(job.to_owned(), "persistence".to_owned());
        self.fails(&job_tool, Errno::EPERM, "block", &shown(job))?;
        let su = program("su")?;
        self.fails(&start(&["su", "-c", "id"]), Errno::EPERM, "block", &shown(&su))
    }

    fn explained(&mut self) -> Result<()> {
        self.screen.heading("The agent asks why");
        let why = self.agent(&start(&["enforcer", "why", "-n", "2"]))?;
        let text = why.text().unwrap_or_default();
        self.check(text.contains("privileges"), "it should have been told the rule");
        self.check(text.contains("agents stay who they are"), "it should have been told the message");
        Ok(())
    }

    fn throttled(&mut self) -> Result<()> {
        self.screen.heading("Throttled: three searches at once, then one every five seconds");
        let search = self.servers.search.clone();
        let query = Tool::Get { server: search.address, path: "/?q=orders".to_owned() };
        for _ in 0..3 {
            self.works(&query)?;
        }
        self.fails(&query, Errno::EAGAIN, "throttle", &format!("tcp {}", search.address))?;
        self.say("five seconds later:");
        thread::sleep(TOKEN);
        self.works(&query)?;
        self.check(search.requests() == 4, "four searches should have reached the server");
        Ok(())
    }

    fn redirected(&mut self) -> Result<()> {
        self.screen.heading("Redirected: the agent asks production, and a replica answers");
        let production = self.servers.production.clone();
        let outcome = self.get(&production, "/orders")?;
        let answered = outcome.text().is_some_and(|text| text.contains("replica"));
        self.check(answered, "the replica should have answered");
        let peer = if let Outcome::Done { peer, .. } = outcome { peer } else { None };
        self.check(peer == Some(production.address), "getpeername should have said production");
        self.event("sandbox", &format!("tcp {}", production.address));
        let (asked, reached) = (production.requests(), self.servers.replica.requests());
        self.say(&format!("requests that reached production: {asked}, the replica: {reached};"));
        self.say("to the agent, getpeername(2) says production");
        self.check((asked, reached) == (0, 1), "production should not have been reached");
        Ok(())
    }

    fn escalated(&mut self) -> Result<()> {
        self.screen.heading("Escalated: the agent needs a person, who looks, and says yes");
        let customer = at("customers/4711.json");
        let read = Tool::Read(customer.clone());
        self.waits(&read, &shown(&customer))?;
        let id = self.request(&shown(&customer))?;
        self.person(&["approvals", "approve", &id])?;
        self.say("and the same call goes on:");
        let outcome = self.outcome(&read)?;
        let done = outcome.text().is_some_and(|text| text.contains("Ada"));
        self.check(done, "it should have been read");
        Ok(())
    }

    fn rejected(&mut self) -> Result<()> {
        self.screen.heading("Or says no");
        let payments = self.servers.payments.clone();
        let object = format!("tcp {}", payments.address);
        let pay = Tool::Get { server: payments.address, path: "/pay?euro=900".to_owned() };
        self.waits(&pay, &object)?;
        let id = self.request(&object)?;
        self.person(&["approvals", "reject", &id, "--reason", "over budget"])?;
        let outcome = self.outcome(&pay)?;
        self.check(outcome.is(Errno::EPERM), "it should have failed with EPERM");
        self.event("block", &object);
        self.check(payments.requests() == 0, "nothing should have been paid");
        Ok(())
    }

    /// The agent begins something that waits; its other thread goes on meanwhile.
    fn waits(&mut self, tool: &Tool, object: &str) -> Result<()> {
        self.screen.say(Voice::Agent, &format!("{:<53} …", tool.to_string()));
        self.stage.begin(tool)?;
        self.event("escalate", object);
        let before = Stage::heartbeats()?;
        thread::sleep(LOOK);
        let beats = Stage::heartbeats()?.saturating_sub(before);
        self.say(&format!("the call waits, and the agent's other thread goes on: {beats} beats in a second"));
        self.check(beats > 0, "the other thread should have gone on");
        Ok(())
    }

    /// Shows what waits, and finds the request on that object.
    fn request(&self, object: &str) -> Result<String> {
        self.person(&["approvals", "list"])?;
        let pending = stage::ask_json(&["approvals", "list"])?;
        let wanted = |request: &&Value| request["object"] == object;
        let request = pending.as_array().and_then(|pending| pending.iter().find(wanted));
        let id = request.and_then(|request| request["id"].as_str());
        Ok(id.with_context(|| format!("no request waits on {object}"))?.to_owned())
    }

    fn counted(&mut self) -> Result<()> {
        self.screen.heading("Counted");
        self.person(&["agents", "--rules"])?;
        let told = [("search", "throttle", 1), ("search", "allow", 4), ("production", "sandbox", 1)];
        let more = [("secrets", "block", 2), ("customers", "escalate", 1), ("customers", "allow", 1)];
        let agents = stage::ask_json(&["agents"])?;
        for (rule, verdict, number) in told.into_iter().chain(more) {
            let counted = count(&agents, rule, verdict);
            let told = format!("rule {rule} should have {number} of {verdict}, and has {counted:?}");
            self.check(counted == Some(number), &told);
        }
        Ok(())
    }

    fn outlives_the_daemon(&mut self) -> Result<()> {
        self.screen.heading("The daemon is killed, and everything stays enforced");
        let pid = self.stage.kill_daemon()?;
        self.screen.say(Voice::Person, &format!("$ kill -9 {pid}"));
        let secret = at("secrets/api-key");
        let outcome = self.agent(&Tool::Read(secret.clone()))?;
        self.check(outcome.is(Errno::EPERM), "it should have failed with EPERM");
        let elsewhere = self.servers.elsewhere.clone();
        let outcome = self.get(&elsewhere, "/?data=orders")?;
        self.check(outcome.is(Errno::EPERM), "it should have failed with EPERM");
        let model = self.servers.model.clone();
        let outcome = self.get(&model, "/v1/messages")?;
        self.check(outcome.text().is_some(), "the model should have answered");
        self.say("the next daemon takes over, and tells what happened while nobody was there:");
        let took = self.stage.start_daemon()?.as_secs_f64();
        self.screen.say(Voice::Person, &format!("$ enforcer daemon &\nready after {took:.1} s"));
        self.event("block", &shown(&secret));
        self.event("block", &format!("tcp {}", elsewhere.address));
        self.check(elsewhere.requests() == 0, "nothing should have reached the server");
        let counted = count(&stage::ask_json(&["agents"])?, "secrets", "block");
        self.check(counted == Some(3), "the counters should have gone on where they were");
        Ok(())
    }

    fn ending(&mut self) -> Result<()> {
        self.screen.heading("The agent ends, and everything is taken out of the kernel");
        let status = self.stage.end_agent()?;
        self.check(status.success(), "`enforcer run` should have returned the agent's own 0");
        self.person(&["unload"])?;
        self.stage.daemon_ends()?;
        self.check(!Stage::is_pinned(), "nothing should be pinned any more");
        Ok(())
    }
}

/// An event on one line, as `enforcer tail` would tell it, without time and process.
fn sentence(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or_default();
    let rule = match word("rule") {
        "" => word("reason").to_owned(),
        rule => format!("rule {rule}"),
    };
    let mut line = format!("{}: {} {} [{rule}]", word("verdict"), word("action"), word("object"));
    if !word("message").is_empty() {
        line.push_str(&format!("\n\"{}\"", word("message")));
    }
    line
}

/// Words as a person types them.
fn typed(words: &[&str]) -> String {
    let quoted = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// How often a rule of the demo's agent came to that verdict.
fn count(agents: &Value, rule: &str, verdict: &str) -> Option<u64> {
    let agent = agents.as_array()?.iter().find(|agent| agent["agent"] == stage::AGENT)?;
    let rule = agent["rules"].as_array()?.iter().find(|counted| counted["rule"] == rule)?;
    rule["counts"].get(verdict)?.as_u64()
}

fn start(words: &[&str]) -> Tool {
    Tool::Start(words.iter().map(ToString::to_string).collect())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Where a program is, with symbolic links resolved, as the kernel sees it.
fn program(name: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.exists());
    let found = found.with_context(|| format!("this machine has no `{name}`"))?;
    std::fs::canonicalize(&found).with_context(|| format!("find `{name}`"))
}
