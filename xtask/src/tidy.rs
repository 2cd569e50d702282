//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! Each rule is a function from the files of the repository to complaints, and a test of the unit rung.

use anyhow::{Result, bail};

use crate::{
    Outcome,
    tidy::{files::Files, generated::GENERATED},
};

mod documents;
mod files;
mod generated;
mod rust_source;
mod source_rules;

/// Check the rules of the repository that no compiler checks.
///
/// Where `unsafe` may stand, who may import what, names and lengths of files, links and paths in the
/// documents, generated documents, files that must not be committed. The same rules are tests of
/// `cargo xtask test unit`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the generated documents anew before checking.
    #[arg(long)]
    write: bool,
}

/// A rule: what it demands, and the function that looks for violations, each worded for a reader.
type Rule = (&'static str, fn(&Files) -> Vec<String>);

const RULES: &[Rule] = &[
    ("no file is named after nothing", source_rules::telling_names),
    ("source files stay short", source_rules::short_files),
    ("unsafe stands where it may", source_rules::unsafe_code),
    ("nothing is left to do", source_rules::no_left_overs),
    ("kube is imported by k8s alone", source_rules::kube_imports),
    ("the streams flow one way", source_rules::one_way_imports),
    ("privileged tests name their feature", source_rules::features_of_tests),
    ("no address of a registry is written down", documents::registries),
    ("links lead somewhere", documents::links),
    ("the code map is complete", documents::code_map),
    ("nothing built is committed", documents::built_files),
    ("generated documents are fresh", generated::fresh),
];

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    if args.write {
        for document in GENERATED {
            document.write()?;
        }
    }
    let files = Files::of_repository()?;
    let mut complaints = 0;
    for (demand, find) in RULES {
        for complaint in find(&files) {
            println!("{demand}: {complaint}");
            complaints += 1;
        }
    }
    if complaints > 0 {
        bail!("{complaints} complaints");
    }
    println!("{} files, {} rules, all in order", files.len(), RULES.len());
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test a rule, so that the name of the failing test is the demand.
    macro_rules! rules_hold {
        ($($name:ident: $rule:path;)*) => {
            $(
                #[test]
                fn $name() {
                    let complaints = $rule(&Files::of_repository().expect("the files can be listed"));
                    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
                }
            )*

            #[test]
            fn every_rule_has_a_test() {
                assert_eq!([$(stringify!($name)),*].len(), RULES.len());
            }
        };
    }

    rules_hold! {
        no_file_is_named_after_nothing: source_rules::telling_names;
        source_files_stay_short: source_rules::short_files;
        unsafe_stands_where_it_may: source_rules::unsafe_code;
        nothing_is_left_to_do: source_rules::no_left_overs;
        kube_is_imported_by_k8s_alone: source_rules::kube_imports;
        the_streams_flow_one_way: source_rules::one_way_imports;
        privileged_tests_name_their_feature: source_rules::features_of_tests;
        no_address_of_a_registry_is_written_down: documents::registries;
        links_lead_somewhere: documents::links;
        the_code_map_is_complete: documents::code_map;
        nothing_built_is_committed: documents::built_files;
        generated_documents_are_fresh: generated::fresh;
    }
}
