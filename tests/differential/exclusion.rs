//! What is not tried, and why.

/// Commands by their words; one word stands for every subcommand.
#[rustfmt::skip]
const COMMANDS: &[(&str, &str)] = &[
    ("sync psync replconf replicaof slaveof failover", "refused on purpose: docs/compatibility.md"),
    ("cluster", "what changes it is refused on purpose: docs/compatibility.md; phrases try what reads"),
    ("script|debug", "refused on purpose: docs/compatibility.md"),
    ("shutdown debug save bgsave bgrewriteaof migrate", "ends, stops or slows the server"),
    ("pfselftest", "takes seconds"),
    ("config|set config|rewrite config|resetstat", "changes what the comparison stands on"),
    ("acl|save acl|load", "changes what the comparison stands on"),
    ("client|pause", "stops the connections that compare"),
    ("client|kill", "with any arguments it kills the connections that compare; phrases try it"),
    ("monitor", "shows the addresses and the handshakes of upstreams"),
    ("post host:", "6.0 knows them to end who says them, not everywhere; pointsman always ends them"),
    ("spop", "its choice changes the data; a phrase pops everything"),
];

/// Words that are never an argument.
#[rustfmt::skip]
const ARGUMENTS: &[(&str, &str, &str)] = &[
    ("client|tracking", "REDIRECT", "refused on purpose: docs/compatibility.md"),
    ("client|tracking", "PREFIX", "Redis 7.0 answers twice where prefixes overlap; phrases try one"),
    ("flushall", "SYNC", "newer servers answer it when a thread is done"),
    ("flushdb", "SYNC", "newer servers answer it when a thread is done"),
    ("client|list", "USER", "since Valkey 8.1; whether there is one only the server knows, pointsman lists nobody"),
    ("sort", "BY", "what is equal comes in the order of a hash table; SORT_RO is tried"),
    ("setrange", "9223372036854775807", "Redis 6.0 computes a length that overflows, and ends for want of memory"),
    ("psetex", "9223372036854775807", "Redis 6.0 computes a time that overflows: none for who reads, over for who tidies up"),
    ("set", "9223372036854775807", "the same, with PX"),
    ("lolwut", "9223372036854775807", "Redis 6.0 draws as much as it can, which takes long"),
    ("function|list", "\r\n\0\u{1}", "Valkey 8.1 repeats it as it is, which is no reply"),
    ("xadd", "*", "an id made of the time"),
    ("acl|setuser", "default", "changes what the comparison stands on"),
    ("acl|deluser", "default", "changes what the comparison stands on"),
];

/// Why a command is not tried.
pub fn reason(words: &[String]) -> Option<&'static str> {
    let (first, whole) = (words.first()?, words.join("|"));
    COMMANDS
        .iter()
        .find(|(names, _)| names.split_whitespace().any(|n| n == first || n == whole))
        .map(|(_, why)| *why)
}

/// Whether a key might live for less than a sequence runs: who looks first would see another thing.
fn expires_soon(request: &[Vec<u8>]) -> bool {
    let name = String::from_utf8_lossy(&request[0]).to_lowercase();
    let option = |name: &[u8]| request.iter().any(|arg| arg.eq_ignore_ascii_case(name));
    let timed = match name.as_str() {
        "set" | "getex" => option(b"PX") || option(b"EX"),
        "expire" | "pexpire" | "setex" | "psetex" | "restore" | "restore-asking" => true,
        _ => false,
    };
    timed
        && request[1..].iter().any(|arg| {
            let number = std::str::from_utf8(arg)
                .ok()
                .and_then(|arg| arg.parse().ok());
            number.is_some_and(|number: i64| (1..10_000).contains(&number))
        })
}

/// Whether a request is one that is not tried.
pub fn excludes(request: &[Vec<u8>]) -> bool {
    let words: Vec<String> = request
        .iter()
        .take(2)
        .map(|word| String::from_utf8_lossy(word).to_lowercase())
        .collect();
    if words.is_empty() || reason(&words).is_some() {
        return !words.is_empty();
    }
    if expires_soon(request) {
        return true;
    }
    let whole = words.join("|");
    ARGUMENTS
        .iter()
        .filter(|(command, ..)| words[0] == *command || whole == *command)
        .any(|(_, word, _)| {
            request
                .iter()
                .any(|a| a.eq_ignore_ascii_case(word.as_bytes()))
        })
}
