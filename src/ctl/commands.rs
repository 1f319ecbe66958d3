//! The commands and flags of nornctl as data, in etcdctl's names; [`run`] calls the code behind each.

use crate::connect::{Client, Config};
use crate::exit::{self, Exit, Outcome};
use crate::flags::Kind::{Bool, Int, List, Text, Time};
use crate::flags::{Flag, Grammar, Line, Spec, flag, short};
use crate::print::Printer;
use crate::{alarm, auth, endpoint, kv, lease, lock, maintenance, member, snapshot, txn, watch};

/// The version that etcd's tooling sees, and the API's.
pub const VERSION: &str = "3.7.1";
pub const API_VERSION: &str = "3.7";

pub fn grammar(program: &str) -> Grammar {
    Grammar {
        program: program.to_owned(),
        commands: COMMANDS,
        globals: GLOBALS,
        env_prefix: "ETCDCTL_",
        groups: &[KEYS, CLUSTER, CONCURRENCY, AUTH, UTILITY],
    }
}

/// Everything a command needs besides its own line.
pub struct Context {
    pub grammar: Grammar,
    pub line: Line,
    pub printer: Printer,
    pub config: Config,
}

impl Context {
    /// A client for the configured endpoints; authentication happens here (exit code 2 when it fails).
    pub async fn client(&self) -> Outcome<Client> {
        Client::new(&self.config).await
    }
}

pub async fn run(context: Context) -> Outcome {
    let c = &context;
    match c.line.path.as_slice() {
        ["get"] => kv::get(c).await,
        ["put"] => kv::put(c).await,
        ["del"] => kv::del(c).await,
        ["compaction"] => kv::compaction(c).await,
        ["txn"] => txn::txn(c).await,
        ["watch"] => watch::watch(c).await,
        ["lease", "grant"] => lease::grant(c).await,
        ["lease", "revoke"] => lease::revoke(c).await,
        ["lease", "timetolive"] => lease::time_to_live(c).await,
        ["lease", "list"] => lease::list(c).await,
        ["lease", "keep-alive"] => lease::keep_alive(c).await,
        ["member", "add"] => member::add(c).await,
        ["member", "list"] => member::list(c).await,
        ["member", "remove"] => member::remove(c).await,
        ["member", "update"] => member::update(c).await,
        ["member", "promote"] => member::promote(c).await,
        ["endpoint", "health"] => endpoint::health(c).await,
        ["endpoint", "status"] => endpoint::status(c).await,
        ["endpoint", "hashkv"] => endpoint::hash_kv(c).await,
        ["alarm", "list"] => alarm::list(c).await,
        ["alarm", "disarm"] => alarm::disarm(c).await,
        ["defrag"] => maintenance::defrag(c).await,
        ["move-leader"] => maintenance::move_leader(c).await,
        ["downgrade", action] => maintenance::downgrade(c, action).await,
        ["snapshot", "save"] => snapshot::save(c).await,
        ["lock"] => lock::lock(c).await,
        ["elect"] => lock::elect(c).await,
        ["auth", action] => auth::auth(c, action).await,
        ["user", action] => auth::user(c, action).await,
        ["role", action] => auth::role(c, action).await,
        ["version"] => {
            println!("{} version: {VERSION}\nAPI version: {API_VERSION}", c.grammar.program);
            Ok(())
        }
        ["options"] => {
            print!("{}", c.grammar.options());
            Ok(())
        }
        other => Err(Exit::new(
            exit::BAD_FEATURE,
            format!("{} is not supported by {}", other.join(" "), c.grammar.program),
        )),
    }
}

pub fn spec(name: &str) -> &'static Spec {
    COMMANDS.iter().find(|s| s.name == name).expect("a command of the table below")
}

const KEYS: &str = "Key-value commands";
const CLUSTER: &str = "Cluster maintenance commands";
const CONCURRENCY: &str = "Concurrency commands";
const AUTH: &str = "Authentication commands";
const UTILITY: &str = "Utility commands";

const fn leaf(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    flags: &'static [Flag],
) -> Spec {
    Spec { name, usage, about, group: "", flags, subs: &[] }
}

const fn top(group: &'static str, spec: Spec) -> Spec {
    Spec { group, ..spec }
}

const fn tree(
    group: &'static str,
    name: &'static str,
    about: &'static str,
    subs: &'static [Spec],
) -> Spec {
    Spec { name, usage: "", about, group, flags: &[], subs }
}

const PREFIX: Flag = flag("prefix", Bool, "false", "the key is a prefix");
const FROM_KEY: Flag =
    flag("from-key", Bool, "false", "all keys from the given one on, in byte order");
const PREV_KV: Flag = flag("prev-kv", Bool, "false", "also return what was there before");
const ALL_MEMBERS: Flag =
    flag("cluster", Bool, "false", "use the client URLs of all members as endpoints");
const PEER_URLS: Flag = flag("peer-urls", Text, "", "comma-separated peer URLs of the member");
const CONSISTENCY: Flag = flag("consistency", Text, "l", "Linearizable(l) or Serializable(s)");

pub static GLOBALS: &[Flag] = &[
    flag("endpoints", List, "127.0.0.1:2379", "gRPC endpoints"),
    flag("dial-timeout", Time, "2s", "how long connecting may take"),
    flag("command-timeout", Time, "5s", "how long a short command may take, connecting aside"),
    flag("keepalive-time", Time, "2s", "interval of connection keepalives"),
    flag("keepalive-timeout", Time, "6s", "how long a keepalive may stay unanswered"),
    flag("max-request-bytes", Int, "0", "limit of a request (0: 2 MiB)"),
    flag("max-recv-bytes", Int, "0", "limit of a response (0: 2^31-1)"),
    flag("cert", Text, "", "client certificate file"),
    flag("key", Text, "", "client key file"),
    flag("cacert", Text, "", "CA bundle that server certificates must be signed by"),
    flag("insecure-transport", Bool, "true", "no TLS for endpoints without a scheme"),
    flag(
        "insecure-skip-tls-verify",
        Bool,
        "false",
        "accept any server certificate (for tests only)",
    ),
    flag("insecure-discovery", Bool, "true", "accept insecure SRV records"),
    flag("user", Text, "", "name[:password]; without a password it is asked for"),
    flag("password", Text, "", "password, when --user is only a name"),
    flag("auth-jwt-token", Text, "", "JWT token instead of user and password"),
    short('d', flag("discovery-srv", Text, "", "domain whose SRV records name the endpoints")),
    flag("discovery-srv-name", Text, "", "service name for SRV discovery"),
    short(
        'w',
        flag("write-out", Text, "simple", "output format (fields, json, protobuf, simple, table)"),
    ),
    flag("hex", Bool, "false", "byte strings as hex"),
    flag("debug", Bool, "false", "client-side debug output"),
];

pub static COMMANDS: &[Spec] = &[
    tree(
        CLUSTER,
        "alarm",
        "Lists and disarms alarms",
        &[leaf("disarm", "", "Disarms all alarms", &[]), leaf("list", "", "Lists all alarms", &[])],
    ),
    tree(
        AUTH,
        "auth",
        "Turns authentication on and off",
        &[
            leaf("disable", "", "Disables authentication", &[]),
            leaf("enable", "", "Enables authentication", &[]),
            leaf("status", "", "Shows whether authentication is on", &[]),
        ],
    ),
    top(
        KEYS,
        leaf(
            "compaction",
            "[options] <revision>",
            "Drops history before a revision",
            &[flag("physical", Bool, "false", "wait until the old revisions are gone from disk")],
        ),
    ),
    top(
        CLUSTER,
        leaf("defrag", "", "Defragments the members at the given endpoints", &[ALL_MEMBERS]),
    ),
    top(
        KEYS,
        leaf(
            "del",
            "[options] <key> [range_end]",
            "Removes a key or the keys [key, range_end)",
            &[
                PREFIX,
                FROM_KEY,
                PREV_KV,
                flag("range", Bool, "false", "delete a range without a pause"),
            ],
        ),
    ),
    tree(
        CLUSTER,
        "downgrade",
        "Downgrade related commands",
        &[
            leaf("cancel", "", "Cancels a downgrade", &[]),
            leaf("enable", "<TARGET_VERSION>", "Starts a downgrade", &[]),
            leaf("validate", "<TARGET_VERSION>", "Checks whether a downgrade is possible", &[]),
        ],
    ),
    top(
        CONCURRENCY,
        leaf(
            "elect",
            "<election-name> [proposal]",
            "Takes part in or observes an election",
            &[short('l', flag("listen", Bool, "false", "observe only"))],
        ),
    ),
    tree(
        CLUSTER,
        "endpoint",
        "Health, status and hash of endpoints",
        &[
            leaf(
                "hashkv",
                "",
                "Prints the hash of each endpoint's key history",
                &[ALL_MEMBERS, flag("rev", Int, "0", "revision to hash up to (0: the latest)")],
            ),
            leaf("health", "", "Checks that endpoints can commit", &[ALL_MEMBERS]),
            leaf("status", "", "Prints the status of endpoints", &[ALL_MEMBERS]),
        ],
    ),
    top(
        KEYS,
        leaf(
            "get",
            "[options] <key> [range_end]",
            "Gets a key or the keys [key, range_end)",
            &[
                CONSISTENCY,
                flag("order", Text, "", "ASCEND or DESCEND"),
                flag("sort-by", Text, "", "CREATE, KEY, MODIFY, VALUE or VERSION"),
                flag("limit", Int, "0", "at most so many results"),
                PREFIX,
                FROM_KEY,
                flag("rev", Int, "0", "at this revision"),
                flag("keys-only", Bool, "false", "keys without values"),
                flag("count-only", Bool, "false", "only the count"),
                flag("print-value-only", Bool, "false", "values without keys (simple output)"),
                flag("min-create-rev", Int, "0", "lowest create revision"),
                flag("max-create-rev", Int, "0", "highest create revision"),
                flag("min-mod-rev", Int, "0", "lowest modification revision"),
                flag("max-mod-rev", Int, "0", "highest modification revision"),
                flag("stream", Bool, "false", "use the RangeStream RPC"),
            ],
        ),
    ),
    top(UTILITY, leaf("help", "[command]", "Help about any command", &[])),
    tree(
        KEYS,
        "lease",
        "Grants, renews, lists and revokes leases",
        &[
            leaf("grant", "<ttl>", "Creates a lease", &[]),
            leaf(
                "keep-alive",
                "[options] <leaseID>",
                "Keeps a lease alive",
                &[flag("once", Bool, "false", "renew once and exit")],
            ),
            leaf("list", "", "Lists all leases", &[]),
            leaf("revoke", "<leaseID>", "Revokes a lease", &[]),
            leaf(
                "timetolive",
                "<leaseID> [options]",
                "Shows what is left of a lease",
                &[flag("keys", Bool, "false", "also the keys attached to it")],
            ),
        ],
    ),
    top(
        CONCURRENCY,
        leaf(
            "lock",
            "<lockname> [exec-command arg1 arg2 ...]",
            "Acquires a named lock",
            &[flag("ttl", Int, "10", "timeout for session")],
        ),
    ),
    tree(
        CLUSTER,
        "member",
        "Membership of the cluster",
        &[
            leaf(
                "add",
                "<memberName> [options]",
                "Adds a member",
                &[PEER_URLS, flag("learner", Bool, "false", "add it without a vote")],
            ),
            leaf("list", "", "Lists all members", &[CONSISTENCY]),
            leaf("promote", "<memberID>", "Gives a learner a vote", &[]),
            leaf("remove", "<memberID>", "Removes a member", &[]),
            leaf("update", "<memberID> [options]", "Changes a member's peer URLs", &[PEER_URLS]),
        ],
    ),
    top(
        CLUSTER,
        leaf("move-leader", "<transferee-member-id>", "Hands leadership to another member", &[]),
    ),
    top(UTILITY, leaf("options", "", "Shows the global options", &[])),
    top(
        KEYS,
        leaf(
            "put",
            "[options] <key> <value> (<value> can also be given from stdin)",
            "Stores a key",
            &[
                flag("lease", Text, "0", "lease ID (in hexadecimal) to attach to the key"),
                PREV_KV,
                flag("ignore-value", Bool, "false", "keep the current value"),
                flag("ignore-lease", Bool, "false", "keep the current lease"),
            ],
        ),
    ),
    tree(
        AUTH,
        "role",
        "Roles and their permissions",
        &[
            leaf("add", "<role name>", "Adds a role", &[]),
            leaf("delete", "<role name>", "Deletes a role", &[]),
            leaf("get", "<role name>", "Shows a role", &[]),
            leaf(
                "grant-permission",
                "[options] <role name> <permission type> <key> [endkey]",
                "Grants a key to a role",
                &[PREFIX, FROM_KEY],
            ),
            leaf("list", "", "Lists all roles", &[]),
            leaf(
                "revoke-permission",
                "<role name> <key> [endkey]",
                "Takes a key from a role",
                &[PREFIX, FROM_KEY],
            ),
        ],
    ),
    tree(
        CLUSTER,
        "snapshot",
        "Saves snapshots of a member",
        &[leaf("save", "<filename>", "Stores a snapshot of the backend in a file", &[])],
    ),
    top(
        KEYS,
        leaf(
            "txn",
            "[options]",
            "Runs several requests as one transaction",
            &[short('i', flag("interactive", Bool, "false", "ask for the parts"))],
        ),
    ),
    tree(
        AUTH,
        "user",
        "Users and their roles",
        &[
            leaf(
                "add",
                "<user name or user:password> [options]",
                "Adds a user",
                &[
                    flag("interactive", Bool, "true", "ask for the password on the terminal"),
                    flag("new-user-password", Text, "", "the password"),
                    flag(
                        "no-password",
                        Bool,
                        "false",
                        "a user who authenticates by certificate only",
                    ),
                ],
            ),
            leaf("delete", "<user name>", "Deletes a user", &[]),
            leaf(
                "get",
                "<user name> [options]",
                "Shows a user",
                &[flag("detail", Bool, "false", "also the permissions of the roles")],
            ),
            leaf("grant-role", "<user name> <role name>", "Grants a role to a user", &[]),
            leaf("list", "", "Lists all users", &[]),
            leaf(
                "passwd",
                "<user name> [options]",
                "Changes a password",
                &[flag("interactive", Bool, "true", "ask for the password on the terminal")],
            ),
            leaf("revoke-role", "<user name> <role name>", "Takes a role from a user", &[]),
        ],
    ),
    top(UTILITY, leaf("version", "", "Prints the version", &[])),
    top(
        KEYS,
        leaf(
            "watch",
            "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
            "Watches keys",
            &[
                short('i', flag("interactive", Bool, "false", "read watch requests from stdin")),
                PREFIX,
                flag("rev", Int, "0", "start at this revision"),
                PREV_KV,
                flag("progress-notify", Bool, "false", "receive periodic progress notices"),
            ],
        ),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Parsed;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn parse(text: &str, env: &[(&str, &str)]) -> Outcome<Parsed> {
        let env: Vec<_> = env.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        grammar("etcdctl").parse(&words(text), &env)
    }

    fn line(text: &str) -> Line {
        match parse(text, &[]) {
            Ok(Parsed::Run(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn flags_stand_anywhere_and_commands_may_be_shortened() {
        let l = line("--endpoints a:1,b:2 pu --endpoints=c:3 k v --lease 1f -w json --prev-kv");
        assert_eq!(l.path, ["put"]);
        assert_eq!(l.args, ["k", "v"]);
        assert_eq!(l.list("endpoints"), ["a:1", "b:2", "c:3"]);
        assert_eq!((l.text("lease"), l.text("write-out"), l.bool("prev-kv")), ("1f", "json", true));
        let l = line("watch foo --rev=3 -- echo --prefix x");
        assert_eq!((l.args.len(), l.dash_at, l.bool("prefix")), (4, Some(1), false));
        assert_eq!(line("member l -wtable").text("write-out"), "table");
    }

    #[test]
    fn errors_of_the_line() {
        let message = |text: &str| parse(text, &[]).unwrap_err().message;
        assert_eq!(message("foo"), "unknown command \"foo\" for \"etcdctl\"");
        assert_eq!(message("get a --nope"), "unknown flag: --nope");
        assert_eq!(message("get -x a"), "unknown shorthand flag: 'x' in -x");
        assert_eq!(message("get a --limit"), "flag needs an argument: --limit");
        assert_eq!(message("get a -w"), "flag needs an argument: 'w' in -w");
        assert_eq!(
            message("get a --rev x"),
            "invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn environment_stands_in_but_never_beside() {
        let Ok(Parsed::Run(l)) = parse("get a", &[("ETCDCTL_WRITE_OUT", "json")]) else { panic!() };
        assert_eq!(l.text("write-out"), "json");
        assert!(parse("get a -w simple", &[("ETCDCTL_WRITE_OUT", "json")]).is_err());
    }

    #[test]
    fn parents_print_help() {
        assert!(matches!(parse("member foo", &[]), Ok(Parsed::Help(_))));
        assert!(matches!(parse("get --help", &[]), Ok(Parsed::Help(_))));
        assert!(matches!(parse("--endpoints x", &[]), Ok(Parsed::Help(_))));
    }
}
