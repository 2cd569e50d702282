//! Whether drivers send frames on: the flag `--xdp`.

use std::fmt;
use std::str::FromStr;

/// Whether drivers send frames on: the flag `--xdp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// They do not.
    #[default]
    Off,
    /// They do; a device whose driver cannot is warned of.
    Native,
    /// Those do that can, as far as that is to be found out.
    Auto,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "native" => Ok(Self::Native),
            "auto" => Ok(Self::Auto),
            "generic" => Err("generic XDP is not served: behind it Linux hands packets to tc without their Ethernet \
                              header, on some kernels"
                .to_owned()),
            other => Err(format!("`{other}` is none of off, native, auto")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Native => "native",
            Self::Auto => "auto",
        })
    }
}
