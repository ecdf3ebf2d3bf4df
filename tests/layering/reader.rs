//! Reads Rust sources just well enough to know which paths they name.

use std::collections::BTreeSet;

/// Names of all dependencies as they are written in code.
pub fn dependencies(cargo_toml: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::from(["std", "core", "alloc"].map(String::from));
    for line in cargo_toml.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside) {
            names.insert(name.trim().replace('-', "_"));
        }
    }
    names
}

/// A path that the code names.
pub struct Found {
    pub line: usize,
    /// Without the leading `crate`.
    pub path: Vec<String>,
    /// Of this crate; else the first part is another crate.
    pub ours: bool,
    pub in_test: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Name(String),
    PathSep,
    Other(char),
}

/// Names and punctuation with their lines; comments, strings and lifetimes left out.
pub fn tokens(text: &str) -> Vec<(usize, Token)> {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let end = token_end(&bytes, at);
        let c = bytes[at];
        if c.is_alphabetic() || c == '_' {
            // A raw string begins like a name; token_end went past it.
            if bytes[at..end]
                .iter()
                .all(|c| c.is_alphanumeric() || *c == '_')
            {
                out.push((line, Token::Name(bytes[at..end].iter().collect())));
            }
        } else if c == ':' && end == at + 2 {
            out.push((line, Token::PathSep));
        } else if end == at + 1 && !c.is_whitespace() && c != '"' {
            out.push((line, Token::Other(c)));
        }
        line += bytes[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    out
}

/// Where the token, comment or literal that begins at `at` ends.
fn token_end(text: &[char], at: usize) -> usize {
    let rest = &text[at..];
    let starts = |s: &str| rest.iter().copied().take(s.len()).eq(s.chars());
    let find = |from: usize, s: &str| {
        let s: Vec<char> = s.chars().collect();
        let hit = rest[from.min(rest.len())..]
            .windows(s.len())
            .position(|w| w == s);
        hit.map_or(text.len(), |p| at + from + p + s.len())
    };
    if starts("//") {
        return find(2, "\n");
    }
    if starts("/*") {
        return find(2, "*/");
    }
    if starts("::") {
        return at + 2;
    }
    let prefix = rest
        .iter()
        .take_while(|c| matches!(c, 'b' | 'c' | 'r'))
        .count();
    let raw = rest[..prefix].contains(&'r');
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    if raw && rest.get(prefix + hashes) == Some(&'"') {
        return find(prefix + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
    }
    if rest.get(prefix) == Some(&'"') {
        return at + quoted_end(rest, prefix, '"');
    }
    if rest[0] == '\'' {
        let literal = rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'');
        let lifetime = 1 + rest[1..]
            .iter()
            .take_while(|c| c.is_alphanumeric() || **c == '_')
            .count();
        return at
            + if literal {
                quoted_end(rest, 0, '\'')
            } else {
                lifetime
            };
    }
    let name = rest
        .iter()
        .take_while(|c| c.is_alphanumeric() || **c == '_')
        .count();
    at + name.max(1)
}

fn quoted_end(text: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Every path that the tokens name, made absolute.
pub fn paths(
    tokens: &[(usize, Token)],
    module: &[String],
    dependencies: &BTreeSet<String>,
) -> Vec<Found> {
    let mut walk = Walk {
        tokens,
        dependencies,
        blocks: Vec::new(),
        module: module.to_vec(),
        imported: BTreeSet::new(),
        in_test: module.iter().skip(1).any(|part| part.ends_with("tests")) as usize,
        found: Vec::new(),
    };
    walk.run();
    let Walk {
        imported,
        mut found,
        ..
    } = walk;
    // `use crate::metrics; metrics::x()` names our module and not the crate of that name.
    found.retain(|f| f.ours || !imported.contains(&f.path[0]));
    found
}

struct Walk<'a> {
    tokens: &'a [(usize, Token)],
    dependencies: &'a BTreeSet<String>,
    /// Open braces: those of inline modules, and those of test modules.
    blocks: Vec<Block>,
    module: Vec<String>,
    /// Names that `use crate::...` or `mod` brought into this file.
    imported: BTreeSet<String>,
    in_test: usize,
    found: Vec<Found>,
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    Plain,
    Module,
    TestModule,
}

impl Walk<'_> {
    fn run(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            at = self.step(at);
        }
    }

    fn is(&self, at: usize, token: &Token) -> bool {
        self.tokens.get(at).is_some_and(|(_, t)| t == token)
    }

    fn name(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at) {
            Some((_, Token::Name(name))) => Some(name),
            _ => None,
        }
    }

    fn step(&mut self, at: usize) -> usize {
        match &self.tokens[at].1 {
            Token::Other('{') => self.blocks.push(Block::Plain),
            Token::Other('}') => match self.blocks.pop() {
                Some(Block::Plain) | None => {}
                Some(block) => {
                    self.module.pop();
                    self.in_test -= usize::from(block == Block::TestModule);
                }
            },
            Token::Name(word) if word == "mod" && self.name(at + 1).is_some() => {
                return self.module(at);
            }
            Token::Name(word) if word == "use" => return self.use_tree(at + 1, Vec::new()),
            Token::Name(_) if at == 0 || !self.is(at - 1, &Token::PathSep) => {
                let (path, next) = self.plain_path(at);
                if path.len() > 1 {
                    self.resolve(at, path);
                }
                return next;
            }
            _ => {}
        }
        at + 1
    }

    fn module(&mut self, at: usize) -> usize {
        let name = self.name(at + 1).unwrap_or_default().to_owned();
        self.imported.insert(name.clone());
        if !self.is(at + 2, &Token::Other('{')) {
            return at + 2;
        }
        let attribute = self.tokens[at.saturating_sub(7)..at].iter();
        let test = attribute
            .clone()
            .any(|(_, t)| *t == Token::Name("cfg".into()))
            && attribute
                .clone()
                .any(|(_, t)| *t == Token::Name("test".into()));
        self.in_test += usize::from(test);
        self.blocks.push(if test {
            Block::TestModule
        } else {
            Block::Module
        });
        self.module.push(name);
        at + 3
    }

    /// `a::b::c` from `at`; where it ends.
    fn plain_path(&self, mut at: usize) -> (Vec<String>, usize) {
        let mut path = Vec::new();
        while let Some(name) = self.name(at) {
            path.push(name.to_owned());
            at += 1;
            if !self.is(at, &Token::PathSep) || self.name(at + 1).is_none() {
                break;
            }
            at += 1;
        }
        (path, at)
    }

    /// A `use` tree from `at`, below `prefix`; where it ends.
    fn use_tree(&mut self, at: usize, mut prefix: Vec<String>) -> usize {
        let start = at;
        let at = at + usize::from(self.is(at, &Token::PathSep));
        let (path, mut at) = self.plain_path(at);
        prefix.extend(path);
        at += usize::from(self.is(at, &Token::PathSep));
        if self.is(at, &Token::Other('{')) {
            while !self.is(at, &Token::Other('}')) && at < self.tokens.len() {
                at = self.use_tree(at + 1, prefix.clone());
            }
            return at + 1;
        }
        if prefix.last().is_some_and(|last| last == "self") && prefix.len() > 1 {
            prefix.pop();
        }
        let bound = prefix.last().cloned();
        if !prefix.is_empty() && start != at && self.resolve(start, prefix) {
            self.imported.extend(bound);
        }
        while !matches!(
            self.tokens.get(at),
            None | Some((_, Token::Other(',' | ';' | '}')))
        ) {
            at += 1;
        }
        at
    }

    /// Makes a path absolute and keeps it when it leaves the module; true when it is ours.
    fn resolve(&mut self, at: usize, path: Vec<String>) -> bool {
        let mut base = self.module.clone();
        let mut rest = path.as_slice();
        let ours = match rest[0].as_str() {
            "crate" | "pointsman" => {
                base.clear();
                rest = &rest[1..];
                true
            }
            "self" | "super" => {
                rest = &rest[usize::from(rest[0] == "self")..];
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
                true
            }
            _ => false,
        };
        if !ours && !self.dependencies.contains(&path[0]) {
            return false;
        }
        let path: Vec<String> = if ours {
            base.iter().chain(rest).cloned().collect()
        } else {
            path
        };
        if !path.is_empty() {
            let (line, in_test) = (self.tokens[at].0, self.in_test > 0);
            self.found.push(Found {
                line,
                path,
                ours,
                in_test,
            });
        }
        ours
    }
}
