//! Everything svclb decides about a packet.
//!
//! The crate is `no_std` and has no `unsafe`: the same functions run inside the kernel (svclb-ebpf
//! adapts them to `tc`) and on the host, where tests compare both byte by byte. It is generic over
//! three things: the bytes of a packet ([`packet::Packet`]), the tables, the clock and the random
//! numbers around it ([`env::Env`]), and the address family ([`addr::Address`]).
//!
//! A packet passes the stages in this order, one module each:
//! [`parse`] -> [`interest`] -> [`flow_table`] -> [`service`] -> [`select`] -> [`rewrite`] ->
//! [`verdict`]; [`datapath`] holds the order itself. [`schema`] describes every map that the agent
//! and the kernel share.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod checksum;
pub mod config;
pub mod conntrack;
pub mod crc32c;
pub mod datapath;
pub mod env;
pub mod flow_table;
pub mod frontend_table;
pub mod hash;
pub mod interest;
pub mod packet;
pub mod parse;
pub mod rewrite;
pub mod route;
pub mod schema;
pub mod select;
pub mod service;
pub mod snat_port;
pub mod verdict;
pub mod wire;
