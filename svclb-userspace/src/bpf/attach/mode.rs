//! How programs are attached: the flag `--attach`.

use std::{fmt, str::FromStr};

/// How programs are attached: the flag `--attach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The best that the kernel has, and fast.
    #[default]
    Auto,
    /// TCX links only.
    Tcx,
    /// clsact only.
    Clsact,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcx" => Ok(Self::Tcx),
            "clsact" => Ok(Self::Clsact),
            other => Err(format!("`{other}` is none of auto, tcx, clsact")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}
