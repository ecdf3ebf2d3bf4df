//! The commands of the running server with their arguments, as COMMAND and COMMAND DOCS tell them: a
//! new server brings new commands.

use std::collections::BTreeMap;

use crate::exclusion;
use crate::side::Control;
use crate::value::Value;

/// A command, or a subcommand.
pub struct Command {
    /// One word or two.
    pub words: Vec<String>,
    /// As COMMAND tells it: with the name; negative when it is a minimum.
    pub arity: i64,
    /// `None`: the server does not document them.
    pub arguments: Option<Vec<Argument>>,
}

/// What may stand at one place of a request.
#[derive(Clone, Default)]
pub struct Argument {
    pub name: String,
    pub kind: String,
    pub token: Option<String>,
    pub optional: bool,
    pub multiple: bool,
    pub multiple_token: bool,
    pub children: Vec<Argument>,
}

/// Every command that may be tried.
pub fn read(control: &mut Control) -> Vec<Command> {
    let mut documented = BTreeMap::new();
    let docs = control.ask(&["COMMAND", "DOCS"]);
    document(&docs, &mut documented);
    let mut commands = Vec::new();
    let table = control.ask(&["COMMAND"]);
    collect(&table, &documented, &mut commands);
    commands.retain(|c| exclusion::reason(&c.words).is_none());
    commands.sort_by(|a, b| a.words.cmp(&b.words));
    commands
}

fn collect(table: &Value, documented: &BTreeMap<String, Vec<Argument>>, into: &mut Vec<Command>) {
    for entry in table.items() {
        let [name, arity, ..] = entry.items() else {
            continue;
        };
        let name = name.text().to_lowercase();
        if let Some(subcommands) = entry.items().get(9).filter(|s| !s.items().is_empty()) {
            collect(subcommands, documented, into);
        }
        into.push(Command {
            words: name.split('|').map(str::to_owned).collect(),
            arity: arity.number().unwrap_or(-1),
            arguments: documented.get(&name).cloned(),
        });
    }
}

fn document(docs: &Value, into: &mut BTreeMap<String, Vec<Argument>>) {
    for pair in docs.items().chunks(2) {
        let [name, about] = pair else { continue };
        let arguments = about.field("arguments").map(arguments).unwrap_or_default();
        into.insert(name.text().to_lowercase(), arguments);
        if let Some(subcommands) = about.field("subcommands") {
            document(subcommands, into);
        }
    }
}

fn arguments(list: &Value) -> Vec<Argument> {
    let text = |of: &Value, key| of.field(key).map(Value::text);
    list.items()
        .iter()
        .map(|of| {
            let flags = of.field("flags");
            let has = |flag: &str| {
                flags.is_some_and(|flags| flags.items().iter().any(|f| f.text() == flag))
            };
            Argument {
                name: text(of, "name").unwrap_or_default(),
                kind: text(of, "type").unwrap_or_default(),
                token: text(of, "token"),
                optional: has("optional"),
                multiple: has("multiple"),
                multiple_token: has("multiple_token"),
                children: of.field("arguments").map(arguments).unwrap_or_default(),
            }
        })
        .collect()
}
