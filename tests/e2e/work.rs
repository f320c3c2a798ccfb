//! Honest work goes on under a policy that allows what it needs.

use libtest_mimic::Trial;

use crate::governed::{Agent, same};
use crate::trial::{Outcome, trial};

/// What programs of an ordinary system read and write, and nothing else but the agent's own folder.
const SENSIBLE: &str = "[default]\nnetwork = \"block\"\nfiles = \"block\"\nexec = \"block\"\n\
    [[network]]\nname = \"own-machine\"\naction = \"allow\"\nto = [\"127.0.0.0/8\", \"::1\"]\n\
    [[file]]\nname = \"secrets\"\naction = \"block\"\npaths = [\"/etc/shadow\", \"**/.env\"]\n\
    [[file]]\nname = \"system\"\naction = \"allow\"\naccess = [\"read\"]\n\
    paths = [\"/usr/**\", \"/etc/**\", \"/{bin,lib,lib64,opt}/**\", \"/proc/**\", \"/sys/**\", \"/dev/**\"]\n\
    [[file]]\nname = \"devices\"\naction = \"allow\"\npaths = [\"/dev/{null,zero,tty,urandom,random}\"]\n\
    [[file]]\nname = \"own\"\naction = \"allow\"\npaths = [\"@\", \"@/**\", \"/tmp\", \"/tmp/**\"]\n\
    [[exec]]\nname = \"programs\"\naction = \"allow\"\n\
    paths = [\"/usr/{bin,lib,libexec}/**\", \"/bin/*\", \"/opt/enforcer/bin/*\", \"@/**\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("work::a_shell_does_its_work", a_shell_does_its_work),
        trial("work::git_does_its_work", git_does_its_work),
        trial("work::python_does_its_work", python_does_its_work),
        trial("work::curl_reads_from_a_local_server", curl_reads_from_a_local_server),
    ]
}

/// Runs a script that must end well and print this as its last line.
fn works(name: &'static str, script: &str, last: &str) -> Outcome {
    let agent = Agent::new(name, SENSIBLE)?;
    agent.file(".env")?;
    let script = format!("cd {}; export HOME=$PWD; {script}", agent.at(""));
    let ran = agent.run(&["bash", "-euo", "pipefail", "-c", &script])?;
    if ran.code != 0 {
        return Err(format!("exit {}: {:?} {}", ran.code, ran.lines, ran.errors).into());
    }
    same(&ran.lines.last().map(String::as_str), &Some(last))
}

fn a_shell_does_its_work() -> Outcome {
    works(
        "work-shell",
        "mkdir -p a/b; for i in 1 2 3; do echo $i > a/b/$i; done; cat a/b/* | sort -r | tr '\\n' ' ' > all; \
         ls -R > /dev/null; ! cat .env 2> /dev/null; ! cat /etc/shadow 2> /dev/null; rm a/b/2; \
         cat all <<< here > /dev/null; echo \"$(find a -type f | wc -l)\"",
        "2",
    )
}

fn git_does_its_work() -> Outcome {
    works(
        "work-git",
        "git init -q repo; cd repo; git config user.name a; git config user.email a@example.org; echo text > file; \
         git add file; git commit -q -m first; echo more >> file; git diff --stat > /dev/null; \
         git commit -q -a -m second; git gc -q; git clone -q . ../clone; git -C ../clone log --oneline | wc -l",
        "2",
    )
}

fn python_does_its_work() -> Outcome {
    works(
        "work-python",
        "printf 'import json, ssl, tempfile, subprocess, sqlite3, threading\\n\
         ssl.create_default_context()\\nopen(\"out.json\", \"w\").write(json.dumps([1, 2]))\\n\
         with tempfile.TemporaryFile() as file: file.write(b\"x\")\\n\
         subprocess.run([\"true\"], check=True)\\n\
         try: open(\".env\")\\nexcept PermissionError: print(sum(json.load(open(\"out.json\"))))\\n' > script.py; \
         python3 script.py",
        "3",
    )
}

fn curl_reads_from_a_local_server() -> Outcome {
    works(
        "work-curl",
        "echo page > index.html; python3 -m http.server 8099 --bind 127.0.0.1 > /dev/null 2>&1 & server=$!; \
         for _ in $(seq 300); do curl -s http://127.0.0.1:8099/ -o got && break; sleep 0.1; done; kill $server; cat got",
        "page",
    )
}
