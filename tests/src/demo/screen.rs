//! What people see: who speaks in front, what is said behind, the same with and without colour.

use std::io::{self, IsTerminal as _};

/// Who speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Voice {
    /// The agent, of what it did and what came of it.
    Agent,
    /// The event of a decision.
    Event,
    /// The person who looks after agents, and their commands.
    Person,
    /// The one who tells the story.
    Story,
}

impl Voice {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Event => "event",
            Self::Person => "person",
            Self::Story => "",
        }
    }

    /// The parameter of "select graphic rendition" of ECMA-48.
    fn colour(self) -> &'static str {
        match self {
            Self::Agent => "36",
            Self::Event => "33",
            Self::Person => "35",
            Self::Story => "2",
        }
    }
}

const BOLD: &str = "1";
const RED: &str = "1;31";

/// Standard output, with colours on a terminal.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
    headings: usize,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { colours: io::stdout().is_terminal(), headings: 0 }
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The start of a part of the story.
    pub(crate) fn heading(&mut self, text: &str) {
        self.headings += 1;
        let text = format!("{}. {text}", self.headings);
        println!("\n{}", self.painted(BOLD, &text));
    }

    /// What somebody says; the lines after the first are below it.
    pub(crate) fn say(&self, voice: Voice, text: &str) {
        for (number, line) in text.lines().enumerate() {
            let who = format!("{:<7}", if number == 0 { voice.name() } else { "" });
            let line = format!("   {} {line}", self.painted(voice.colour(), &who));
            println!("{}", line.trim_end());
        }
    }

    /// Something did not come out as told.
    pub(crate) fn wrong(&self, text: &str) {
        println!("   {}", self.painted(RED, &format!("NOT AS TOLD: {text}")));
    }
}
