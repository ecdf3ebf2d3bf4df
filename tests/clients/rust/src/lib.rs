//! What the programs have in common: what they saw, and when they end.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;

use tokio::io::AsyncReadExt;

/// Everything that is told to the judge.
#[derive(Default)]
pub struct Saw {
    features: RefCell<Vec<&'static str>>,
    rounds: Cell<u32>,
    after: Cell<u32>,
    messages_after: Cell<u32>,
    errors: RefCell<Vec<(&'static str, String)>>,
    stopping: Cell<bool>,
}

impl Saw {
    pub fn feature(&self, name: &'static str, result: Result<bool, impl Debug>) {
        match result {
            Ok(true) => self.features.borrow_mut().push(name),
            Ok(false) => self.complain(name, "it did something else".into()),
            Err(error) => self.complain(name, format!("{error:?}")),
        }
    }

    pub fn complain(&self, what: &'static str, error: String) {
        self.errors.borrow_mut().push((what, error));
    }

    /// An error of one piece of work is noted.
    pub fn note<T>(&self, what: &'static str, result: Result<T, impl Debug>) -> Option<T> {
        result
            .map_err(|error| self.complain(what, format!("{error:?}")))
            .ok()
    }

    pub fn message(&self) {
        self.messages_after
            .set(self.messages_after.get() + u32::from(self.stopping.get()));
    }

    /// Counts a round; whether it was one of those after the end of the input.
    pub fn round(&self) -> bool {
        self.rounds.set(self.rounds.get() + 1);
        if self.rounds.get() == 20 {
            println!("ready");
        }
        self.after
            .set(self.after.get() + u32::from(self.stopping.get()));
        self.stopping.get()
    }

    /// Waits for the end of the input.
    pub async fn asked_to_stop(&self) {
        let mut nothing = Vec::new();
        tokio::io::stdin()
            .read_to_end(&mut nothing)
            .await
            .expect("an end");
        self.stopping.set(true);
    }

    pub fn print(&self, client: &str) {
        let saw = serde_json::json!({
            "client": client, "features": *self.features.borrow(), "rounds": self.rounds.get(),
            "after": self.after.get(), "messages_after": self.messages_after.get(),
            "errors": *self.errors.borrow(),
        });
        println!("{saw}");
    }
}

/// The port of pointsman: the last argument.
pub fn port() -> u16 {
    std::env::args()
        .next_back()
        .and_then(|port| port.parse().ok())
        .expect("a port")
}
