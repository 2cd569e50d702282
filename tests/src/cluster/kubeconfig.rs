//! Kubeconfig files: where the API server is, how to trust it, and who is asking.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::json;

/// How a user proves who it is.
pub(super) enum Proof<'a> {
    /// By a token.
    Token(&'a str),
    /// By the token that a file holds when it is needed, as of a service account in its pod.
    File(&'a Path),
}

/// Writes a kubeconfig to `path`. `server` is a URL, `authority` a PEM file. The format is JSON, which is
/// YAML too.
pub(super) fn write(path: &Path, server: &str, authority: &Path, user: &str, proof: &Proof) -> Result<()> {
    let proof = match proof {
        Proof::Token(token) => json!({"token": token}),
        Proof::File(file) => json!({"tokenFile": file}),
    };
    let content = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": user, "user": proof}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    });
    fs::write(path, content.to_string()).with_context(|| format!("write the kubeconfig {}", path.display()))
}
