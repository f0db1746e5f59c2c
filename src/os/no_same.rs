//! Where the numbers of a file are proof which one it is, nothing has to be asked.

use std::fs::File;

use crate::os::names::Answer;

pub(in crate::os) const CAN_ASK: bool = false;

pub(in crate::os) fn ask(_new: &File, _known: &[&File]) -> Answer {
    Answer::Doubt
}
