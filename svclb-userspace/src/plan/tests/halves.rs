//! Interest bitmaps that grow and shrink.

use std::time::Duration;

use svclb_common::addr::Addr4;
use svclb_common::config::flag as config_flag;
use svclb_common::interest::{BACKENDS, active_half};
use svclb_common::service::scope;

use super::safety::Wanted;
use super::scenario::{Agent, BOTH, key, tables};
use crate::model::Protocol;
use crate::plan::interest::{KEPT, Member};
use crate::plan::{Bitmap, Limits};
use crate::tables::fake::FakeTables;
use crate::tables::write_idle_half;

/// A map whose halves have 131,072 bits each, far more than a few endpoints need.
const ROOMY: Limits = Limits { interest_frontends: 4096, interest_backends: 4096, ..FakeTables::<Addr4>::SMALL };

/// What an agent does whose bitmaps do not fit.
fn rebuild(agent: &mut Agent, fake: &mut FakeTables<Addr4>) {
    let idle = usize::from(!active_half(&agent.config));
    agent.config.interest[0][idle] = agent.planner.idle_extents();
    agent.planner.set_config(agent.config);
    write_idle_half(&mut agent.planner, fake, agent.now).expect("memory can be written");
    agent.config.flags ^= config_flag::SECOND_HALF;
    agent.planner.set_config(agent.config);
}

/// Bits of the half in use.
fn bits(agent: &Agent) -> u32 {
    agent.config.interest[0][usize::from(active_half(&agent.config))][BACKENDS].mask + 1
}

/// Whether the datapath would look for flows of this endpoint.
fn is_of_interest(agent: &Agent, fake: &FakeTables<Addr4>, number: u8) -> bool {
    let target = super::scenario::target(number);
    let member = Member::Backend(target, Protocol::Tcp.number());
    let (bitmap, word, bit) = member.place(&agent.config, active_half(&agent.config));
    assert_eq!(bitmap, Bitmap::Backends);
    fake.content.interest(bitmap, word) & bit != 0
}

fn serve(agent: &mut Agent, fake: &mut FakeTables<Addr4>, endpoints: &[u8]) {
    let endpoints: Vec<(u8, u8)> = endpoints.iter().map(|number| (*number, BOTH)).collect();
    agent.want(&key(0), Some(tables(Protocol::Tcp, &[(1, scope::CLUSTER)], &endpoints, &[], 0)));
    assert!(agent.run(fake).failures.is_empty());
}

#[test]
fn a_bitmap_with_far_too_many_bits_shrinks_and_fits_then() {
    let mut fake = FakeTables::new(ROOMY);
    let mut agent = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    serve(&mut agent, &mut fake, &[1, 2, 3]);
    assert!(agent.planner.fits_badly(), "three endpoints in {} bits", bits(&agent));
    rebuild(&mut agent, &mut fake);
    assert!(!agent.planner.fits_badly());
    assert_eq!(bits(&agent), 8192);
    assert!((1..=3).all(|number| is_of_interest(&agent, &fake, number)));
    serve(&mut agent, &mut fake, &[1, 2, 3, 4]);
    assert!(is_of_interest(&agent, &fake, 4), "what comes later is put into the half in use");
}

#[test]
fn what_an_earlier_agent_knew_survives_every_size_until_its_flows_are_over() {
    let mut fake = FakeTables::new(ROOMY);
    let mut first = Agent::start(&fake, &Wanted::new(), Duration::ZERO);
    serve(&mut first, &mut fake, &[1, 2]);
    serve(&mut first, &mut fake, &[2]);
    let wanted = first.wanted.clone();
    // The next one finds two endpoints' bits, and knows of one endpoint.
    let mut heir = Agent::start(&fake, &wanted, Duration::ZERO);
    rebuild(&mut heir, &mut fake);
    assert_eq!(bits(&heir), 8192);
    assert!(is_of_interest(&heir, &fake, 1) && is_of_interest(&heir, &fake, 2));
    // Half of a small bitmap's members is kept in each part of a big one.
    let idle = usize::from(!active_half(&heir.config));
    heir.config.interest[0][idle][BACKENDS].mask = 65_535;
    heir.planner.set_config(heir.config);
    write_idle_half(&mut heir.planner, &mut fake, heir.now).expect("memory can be written");
    heir.config.flags ^= config_flag::SECOND_HALF;
    heir.planner.set_config(heir.config);
    assert!(is_of_interest(&heir, &fake, 1) && is_of_interest(&heir, &fake, 2));
    heir.now += KEPT;
    rebuild(&mut heir, &mut fake);
    assert!(is_of_interest(&heir, &fake, 2) && !is_of_interest(&heir, &fake, 1));
}
