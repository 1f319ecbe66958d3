//! auth, user and role commands, and passwords on the terminal.

use std::io::{BufRead as _, Write as _};

use bytes::Bytes;
use norn_proto::authpb;
use norn_proto::etcdserverpb as pb;
use rustix::termios;

use crate::commands::Context;
use crate::connect::Repeat::{No, Yes};
use crate::exit::{Exit, Outcome, bad_args};
use crate::print::{Reply, prefix_end};

/// Asks on stdout and reads a line without echo.
pub fn ask_password(prompt: &str) -> Result<String, String> {
    print!("{prompt}");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    let quiet = NoEcho::new();
    let mut line = String::new();
    let result = std::io::stdin().lock().read_line(&mut line);
    if quiet.is_some() {
        println!();
    }
    result.map_err(|e| e.to_string())?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Echo is off while this lives. `None` when stdin is no terminal.
struct NoEcho(termios::Termios);

impl NoEcho {
    fn new() -> Option<Self> {
        let now = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut quiet = now.clone();
        quiet.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, &quiet).ok()?;
        Some(Self(now))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, &self.0);
    }
}

pub async fn auth(c: &Context, action: &str) -> Outcome {
    if !c.line.args.is_empty() {
        return bad_args(format!("auth {action} command does not accept any arguments"));
    }
    let client = c.client().await?;
    match action {
        "status" => {
            let reply = client
                .call("/etcdserverpb.Auth/AuthStatus", &pb::AuthStatusRequest {}, Yes)
                .await?;
            c.printer.print(&Reply::AuthStatus(&reply))?;
        }
        "enable" => {
            let enable = pb::AuthEnableRequest {};
            loop {
                let result = client
                    .call::<_, pb::AuthEnableResponse>("/etcdserverpb.Auth/AuthEnable", &enable, No)
                    .await;
                match result {
                    Ok(_) => break,
                    Err(e) if e.0.message() == "etcdserver: root user does not have root role" => {
                        let role = pb::AuthRoleAddRequest { name: "root".into() };
                        let added: Result<pb::AuthRoleAddResponse, _> =
                            client.call("/etcdserverpb.Auth/RoleAdd", &role, No).await;
                        if let Err(e) = added
                            && e.0.message() != "etcdserver: role name already exists"
                        {
                            return Err(e.into());
                        }
                        let grant = pb::AuthUserGrantRoleRequest {
                            user: "root".into(),
                            role: "root".into(),
                        };
                        let _: pb::AuthUserGrantRoleResponse =
                            client.call("/etcdserverpb.Auth/UserGrantRole", &grant, No).await?;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            println!("Authentication Enabled");
        }
        _ => {
            let _: pb::AuthDisableResponse = client
                .call("/etcdserverpb.Auth/AuthDisable", &pb::AuthDisableRequest {}, No)
                .await?;
            println!("Authentication Disabled");
        }
    }
    Ok(())
}

pub async fn user(c: &Context, action: &str) -> Outcome {
    let args = &c.line.args[..];
    match (action, args) {
        ("list", []) => {
            let client = c.client().await?;
            let reply = client
                .call("/etcdserverpb.Auth/UserList", &pb::AuthUserListRequest {}, Yes)
                .await?;
            c.printer.print(&Reply::UserList(&reply))
        }
        ("list", _) => bad_args("user list command requires no arguments"),
        ("add", [word]) => user_add(c, word).await,
        ("delete", [name]) => {
            let client = c.client().await?;
            let request = pb::AuthUserDeleteRequest { name: name.clone() };
            let reply = client.call("/etcdserverpb.Auth/UserDelete", &request, No).await?;
            c.printer.print(&Reply::UserDelete(name, &reply))
        }
        ("get", [name]) => user_get(c, name).await,
        ("passwd", [name]) => {
            let password = new_password(c, name)?;
            let client = c.client().await?;
            let request = pb::AuthUserChangePasswordRequest {
                name: name.clone(),
                password,
                hashed_password: String::new(),
            };
            let reply = client.call("/etcdserverpb.Auth/UserChangePassword", &request, No).await?;
            c.printer.print(&Reply::UserPassword(&reply))
        }
        ("grant-role", [user, role]) => {
            let client = c.client().await?;
            let request = pb::AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
            let reply = client.call("/etcdserverpb.Auth/UserGrantRole", &request, No).await?;
            c.printer.print(&Reply::UserGrant(user, role, &reply))
        }
        ("revoke-role", [name, role]) => {
            let client = c.client().await?;
            let request = pb::AuthUserRevokeRoleRequest { name: name.clone(), role: role.clone() };
            let reply = client.call("/etcdserverpb.Auth/UserRevokeRole", &request, No).await?;
            c.printer.print(&Reply::UserRevoke(name, role, &reply))
        }
        ("grant-role", _) => {
            bad_args("user grant command requires user name and role name as its argument")
        }
        ("revoke-role", _) => {
            bad_args("user revoke-role requires user name and role name as its argument")
        }
        _ => bad_args(format!("user {action} command requires user name as its argument")),
    }
}

fn new_password(c: &Context, name: &str) -> Outcome<String> {
    if !c.line.bool("interactive") {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).or_else(bad_args)?;
        return Ok(line.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let ask =
        |prompt: String| ask_password(&prompt).map_err(|e| Exit::new(crate::exit::BAD_ARGS, e));
    let first = ask(format!("Password of {name}: "))?;
    if first.is_empty() {
        return bad_args("empty password");
    }
    if ask(format!("Type password of {name} again for confirmation: "))? != first {
        return bad_args("given passwords are different");
    }
    Ok(first)
}

async fn user_add(c: &Context, word: &str) -> Outcome {
    let no_password = c.line.bool("no-password");
    let given = c.line.text("new-user-password");
    let (name, password) = match word.split_once(':') {
        _ if no_password => (word, String::new()),
        _ if !given.is_empty() => (word, given.to_owned()),
        Some((name, password)) => (name, password.to_owned()),
        None => (word, new_password(c, word)?),
    };
    if name.is_empty() {
        return bad_args("empty user name is not allowed");
    }
    let client = c.client().await?;
    let request = pb::AuthUserAddRequest {
        name: name.into(),
        password,
        options: Some(authpb::UserAddOptions { no_password }),
        hashed_password: String::new(),
    };
    let reply = client.call("/etcdserverpb.Auth/UserAdd", &request, No).await?;
    c.printer.print(&Reply::UserAdd(name, &reply))
}

async fn user_get(c: &Context, name: &str) -> Outcome {
    let client = c.client().await?;
    let request = pb::AuthUserGetRequest { name: name.into() };
    let reply: pb::AuthUserGetResponse =
        client.call("/etcdserverpb.Auth/UserGet", &request, Yes).await?;
    if !c.line.bool("detail") {
        return c.printer.print(&Reply::UserGet(name, &reply));
    }
    println!("User: {name}");
    for role in &reply.roles {
        println!();
        let request = pb::AuthRoleGetRequest { role: role.clone() };
        let reply = client.call("/etcdserverpb.Auth/RoleGet", &request, Yes).await?;
        c.printer.print(&Reply::RoleGet(role, &reply))?;
    }
    Ok(())
}

pub async fn role(c: &Context, action: &str) -> Outcome {
    let args = &c.line.args[..];
    match (action, args) {
        ("list", []) => {
            let client = c.client().await?;
            let reply = client
                .call("/etcdserverpb.Auth/RoleList", &pb::AuthRoleListRequest {}, Yes)
                .await?;
            c.printer.print(&Reply::RoleList(&reply))
        }
        ("list", _) => bad_args("role list command requires no arguments"),
        ("add", [name]) => {
            let client = c.client().await?;
            let request = pb::AuthRoleAddRequest { name: name.clone() };
            let reply = client.call("/etcdserverpb.Auth/RoleAdd", &request, No).await?;
            c.printer.print(&Reply::RoleAdd(name, &reply))
        }
        ("delete", [name]) => {
            let client = c.client().await?;
            let request = pb::AuthRoleDeleteRequest { role: name.clone() };
            let reply = client.call("/etcdserverpb.Auth/RoleDelete", &request, No).await?;
            c.printer.print(&Reply::RoleDelete(name, &reply))
        }
        ("get", [name]) => {
            let client = c.client().await?;
            let request = pb::AuthRoleGetRequest { role: name.clone() };
            let reply: pb::AuthRoleGetResponse =
                client.call("/etcdserverpb.Auth/RoleGet", &request, Yes).await?;
            c.printer.print(&Reply::RoleGet(name, &reply))
        }
        ("grant-permission", [name, kind, rest @ ..]) if !rest.is_empty() => {
            let perm_type = match kind.to_lowercase().as_str() {
                "read" => authpb::permission::Type::Read,
                "write" => authpb::permission::Type::Write,
                "readwrite" => authpb::permission::Type::Readwrite,
                _ => return bad_args(format!("invalid permission type: {kind}")),
            };
            let (key, range_end) = permission_range(c, rest)?;
            let client = c.client().await?;
            let request = pb::AuthRoleGrantPermissionRequest {
                name: name.clone(),
                perm: Some(authpb::Permission { perm_type: perm_type as i32, key, range_end }),
            };
            let reply = client.call("/etcdserverpb.Auth/RoleGrantPermission", &request, No).await?;
            c.printer.print(&Reply::RoleGrant(name, &reply))
        }
        ("grant-permission", _) => bad_args(
            "role grant command requires role name, permission type, and key [endkey] as its argument",
        ),
        ("revoke-permission", [name, rest @ ..]) if !rest.is_empty() => {
            let (key, range_end) = permission_range(c, rest)?;
            let client = c.client().await?;
            let request = pb::AuthRoleRevokePermissionRequest {
                role: name.clone(),
                key,
                range_end: range_end.clone(),
            };
            let reply =
                client.call("/etcdserverpb.Auth/RoleRevokePermission", &request, No).await?;
            c.printer.print(&Reply::RoleRevoke(name, rest[0].as_bytes(), &range_end, &reply))
        }
        ("revoke-permission", _) => bad_args(
            "role revoke-permission command requires role name and key [endkey] as its argument",
        ),
        _ => bad_args(format!("role {action} command requires role name as its argument")),
    }
}

fn permission_range(c: &Context, rest: &[String]) -> Outcome<(Bytes, Bytes)> {
    let (prefix, from_key) = (c.line.bool("prefix"), c.line.bool("from-key"));
    if prefix && from_key {
        return bad_args("--from-key and --prefix flags are mutually exclusive");
    }
    if rest.len() > 1 && (prefix || from_key) {
        let flag = if prefix { "prefix" } else { "from-key" };
        return bad_args(format!("unexpected endkey argument with --{flag} flag"));
    }
    let mut key = rest[0].clone().into_bytes();
    let end = match rest.get(1) {
        Some(end) => end.clone().into_bytes(),
        None if from_key || (prefix && key.is_empty()) => vec![0],
        None if prefix => prefix_end(&key),
        None => Vec::new(),
    };
    if key.is_empty() {
        key = vec![0];
    }
    Ok((key.into(), end.into()))
}
