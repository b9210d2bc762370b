//! What stands for CURVE when it is compiled out: types that nothing can have.

use bytes::BufMut;

use super::ProtocolError;

pub(crate) const OVERHEAD: usize = 0;

#[derive(Debug)]
pub(crate) enum Sealer {}

impl Sealer {
    pub(crate) const fn flags(_more: bool, _command: bool) -> u8 {
        0
    }

    pub(crate) fn seal(&mut self, _body: &mut [u8]) -> bool {
        match *self {}
    }

    pub(crate) fn seal_apart(&mut self, _room: &mut [u8], _body: &[u8]) -> Option<Vec<u8>> {
        match *self {}
    }

    pub(crate) fn unseal(&self, _body: &mut [u8]) -> bool {
        match *self {}
    }

    pub(crate) fn unseal_apart(&self, _room: &mut [u8], _body: &[u8]) -> Option<Vec<u8>> {
        match *self {}
    }

    pub(crate) fn put(&mut self, _plain: &[u8], _out: &mut impl BufMut) -> Result<(), ProtocolError> {
        match *self {}
    }
}

#[derive(Debug)]
pub(super) enum Opener {}

#[derive(Clone, Copy)]
pub(super) struct Flags {
    pub(super) more: bool,
    pub(super) command: bool,
}

impl Opener {
    pub(super) fn open(&mut self, _body: &mut [u8]) -> Result<Flags, ProtocolError> {
        match *self {}
    }
}
