//! Packets of all shapes, good ones and damaged ones.

use std::net::SocketAddr;

use super::dice::Dice;
use super::{SCTP, TCP, UDP};
use crate::packet::fragments::Cut;
use crate::packet::{Frame, sctp, tcp, udp};

/// A packet of a protocol that is part of something that goes on already.
pub(super) fn make(protocol: u8, from: SocketAddr, to: SocketAddr) -> Frame {
    match protocol {
        TCP => tcp(from, to),
        UDP => udp(from, to),
        _ => sctp(from, to),
    }
}

pub(super) fn shape(dice: &mut Dice, mut frame: Frame, protocol: u8) -> Frame {
    match protocol {
        TCP => {
            frame = match dice.below(8) {
                0..4 => frame.syn(),
                4 => frame.fin(),
                5 => frame.rst(),
                _ => frame,
            }
        }
        UDP => {
            if dice.one_in(6) {
                frame = frame.without_checksum();
            }
        }
        _ => {
            frame = match dice.below(8) {
                0..4 => frame.syn(),
                4 => frame,
                _ => {
                    let kinds: Vec<u8> = (0..=dice.below(6)).map(|_| dice.below(16) as u8).collect();
                    frame.chunks(&kinds)
                }
            }
        }
    }
    if dice.one_in(8) {
        frame = frame.options();
    }
    if dice.one_in(10) {
        frame = frame.vlan(dice.below(4000) as u16 + 1);
    }
    if dice.one_in(6) {
        frame = frame.payload(dice.below(1400));
    }
    frame
}

/// Damages a packet, or turns it into something that is passed by name.
pub(super) fn damage(dice: &mut Dice, bytes: &mut Vec<u8>, v6: bool) {
    match dice.below(6) {
        // The kernel runs no program on less than a network header.
        0 => {
            let least = if v6 { 54 } else { 34 };
            bytes.truncate(least + dice.below(bytes.len() - least));
        }
        1 => bytes[12..14].copy_from_slice(&[0x08, 0x06]),
        2 if v6 => bytes[20] = 44,
        2 => bytes[20] |= 0x20,
        3 => bytes[if v6 { 20 } else { 23 }] = SCTP,
        4 => bytes[if v6 { 20 } else { 23 }] = 47,
        _ => {
            let at = 14 + dice.below(bytes.len() - 14);
            bytes[at] = dice.byte();
        }
    }
}

/// A datagram in fragments, of which one may come too early.
pub(super) fn pieces(dice: &mut Dice, frame: Frame) -> Vec<Vec<u8>> {
    let options = dice.one_in(4);
    let frame = frame.payload(dice.of(&[60, 300]));
    let frame = if options { frame.options() } else { frame };
    // Few names, so that one is met again; now and then less than a transport header.
    let (id, size) = (dice.below(3) as u16, dice.of(&[8, 16, 64, 64, 64, 64]));
    let mut pieces = Cut { id, size, behind_options: options && dice.one_in(2) }.of(&frame.bytes());
    pieces.truncate(4);
    if dice.one_in(3) {
        pieces.rotate_left(1);
    }
    pieces
}
