//! Documents that are made from the code: a test compares them, `cargo xtask tidy --write` writes them.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};
use svclb_common::{
    config::Sizes,
    schema::{Entries, Kind, LAYOUT, MAPS, MapInfo},
    verdict::Counter,
};

use crate::{
    repository,
    tidy::files::{File, Files},
};

/// One generated document.
pub(crate) struct Document {
    /// Its path from the top of the repository.
    path: &'static str,
    /// Its whole text.
    text: fn() -> String,
}

/// All generated documents. A new one is a line here.
pub(crate) const GENERATED: &[Document] =
    &[Document { path: "docs/maps.md", text: maps }, Document { path: "docs/counters.md", text: counters }];

impl Document {
    pub(crate) fn write(&self) -> Result<()> {
        let file = repository::root().join(self.path);
        fs::write(&file, (self.text)()).with_context(|| format!("writing {}", file.display()))?;
        println!("{} written", self.path);
        Ok(())
    }
}

/// Generated documents say what the code says.
pub(crate) fn fresh(files: &Files) -> Vec<String> {
    GENERATED
        .iter()
        .filter(|document| {
            files.all().find(|file| file.path == document.path).and_then(File::text) != Some((document.text)().as_str())
        })
        .map(|document| {
            format!("{} differs from what the code makes; `cargo xtask tidy --write` writes it anew", document.path)
        })
        .collect()
}

/// docs/maps.md, from the schema.
fn maps() -> String {
    let mut text = format!(
        "# Maps

Every map that the kernel object and the agent share. Made from `svclb-common/src/schema.rs` by
`cargo xtask tidy --write`; the types there say what each byte means. This is layout {LAYOUT}: an agent
adopts pinned maps of its own layout only.

A map that comes once for each family ends in 4 or 6. Sizes that are not a number are set when the object
is loaded. *Bytes each* is what one entry costs in the kernel: the value (for each CPU in a per-CPU array),
and in a hash the key, 48 bytes of the kernel's own and a 16 byte bucket as well. A trie and a growing hash
allocate when they are filled, everything else when it is made; of a growing hash the buckets are there from
the start.

| map | kind | key | value | entries | bytes each | holds |
| --- | --- | ---: | ---: | ---: | ---: | --- |
"
    );
    for map in MAPS {
        let kind = match map.kind {
            Kind::Array => "array",
            Kind::PerCpuArray => "per-CPU array",
            Kind::Hash => "hash",
            Kind::GrowingHash => "growing hash",
            Kind::LruHash => "LRU hash",
            Kind::LpmTrie => "trie",
        };
        let entries = match map.entries {
            Entries::Fixed(count) => count.to_string(),
            Entries::Sized(name) => format!("`{name}`"),
        };
        line(
            &mut text,
            &format!(
                "| {} | {kind} | {} | {} | {entries} | {} | {} |",
                map.name,
                map.key,
                map.value,
                bytes_each(map),
                map.holds
            ),
        );
    }
    text.push_str(
        "
## Memory

What the maps of both families take on a node, by the node's memory, in MiB, on 4 CPUs. The first column
is everything but flows, masquerade and affinity, with room for 10,000 Services of one port and 10 endpoints each;
it grows with devices and source ranges only, and everything else is there from the start.

| node | Services and devices | flows | masquerade | affinity | sum |
| ---: | ---: | ---: | ---: | ---: | ---: |
",
    );
    for gibibytes in [1_u64, 4, 16, 64, 256] {
        let sizes = Sizes::for_memory(gibibytes << 30);
        let sum = |belongs: &dyn Fn(&str) -> bool| {
            let bytes: usize = MAPS.iter().filter(|map| belongs(map.name)).map(|map| bytes_of(map, &sizes)).sum();
            f64::from((bytes >> 10) as u32) / 1024.0
        };
        let of = |prefix: &'static str| sum(&move |name: &str| name.starts_with(prefix));
        let (flows, masquerade, affinity) = (of("FLOW") + of("SPILL"), of("MASQUERADE"), of("AFFINITY"));
        let all = sum(&|_| true);
        line(
            &mut text,
            &format!(
                "| {gibibytes} GiB | {:.1} | {flows:.1} | {masquerade:.1} | {affinity:.1} | {all:.1} |",
                all - flows - masquerade - affinity
            ),
        );
    }
    text
}

/// Bytes of a bucket of a hash.
const HASH_BUCKET: usize = 16;

/// What `map` takes in the kernel from the start, in bytes, on 4 CPUs.
fn bytes_of(map: &MapInfo, sizes: &Sizes) -> usize {
    const CPUS: usize = 4;
    let entries = match map.entries {
        Entries::Fixed(count) => count,
        Entries::Sized(name) => sizes.get(name),
    };
    match map.kind {
        Kind::PerCpuArray => bytes_each(map) * entries as usize * CPUS,
        Kind::Array | Kind::Hash | Kind::LruHash => bytes_each(map) * entries as usize,
        Kind::GrowingHash => HASH_BUCKET * entries as usize,
        Kind::LpmTrie => 0,
    }
}

/// What one entry of `map` costs in the kernel, in bytes, on one CPU.
fn bytes_each(map: &MapInfo) -> usize {
    const HASH_ELEMENT: usize = 48;
    const TRIE_NODE: usize = 40;
    let (key, value) = (map.key.next_multiple_of(8), map.value.next_multiple_of(8));
    match map.kind {
        Kind::Array | Kind::PerCpuArray => value,
        Kind::Hash | Kind::GrowingHash | Kind::LruHash => HASH_ELEMENT + HASH_BUCKET + key + value,
        // Half of a trie's nodes only join others.
        Kind::LpmTrie => 2 * (TRIE_NODE + key) + value,
    }
}

/// docs/counters.md, from the verdicts.
fn counters() -> String {
    let mut text = String::from(
        "# Counters

What the datapath counts, per CPU, in the map COUNTERS; `/metrics` shows the sums. Made from
`svclb-common/src/verdict.rs` by `cargo xtask tidy --write`. A number once given is never used for
something else. Those that begin with `drop_` are packets that svclb dropped; how to act on them is in
[operations.md](operations.md#reading-the-counters).

| number | name | counts |
| ---: | --- | --- |
",
    );
    for counter in Counter::ALL {
        line(&mut text, &format!("| {} | {} | {} |", *counter as u8, counter.label(), counter.meaning().trim()));
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}
