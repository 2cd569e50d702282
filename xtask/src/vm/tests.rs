//! Tests of the repository inside another kernel.

use std::ffi::OsString;

use anyhow::{Context as _, Result};

use crate::{
    process, repository,
    setup::{self, items::Need},
    test,
    vm::root_fs::Job,
};

/// What the network tests start.
const TOOLS: [&str; 3] = ["ip", "ethtool", "nft"];

/// Builds svclb and the tests of a file, and answers with what is to be done to run them.
pub(super) fn job(file: &str, arguments: &[OsString]) -> Result<Job> {
    setup::ensure(&[Need::KernelObject, Need::Network])?;
    let program = test::program(file)?;
    let mut programs = vec![repository::target().join("debug/svclb")];
    for tool in TOOLS {
        programs.push(process::on_path(tool).with_context(|| format!("{tool} is not there"))?);
    }
    let mut command = vec![program.into(), "--test-threads=1".into()];
    command.extend_from_slice(arguments);
    Ok(Job { command, programs, variables: vec![("SVCLB_BINARY", "/bin/svclb".to_owned())] })
}
