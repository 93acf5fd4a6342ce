// SPDX-License-Identifier: Apache-2.0
/// Thirty ways in which file system daemons of this kind have died, lost data, or let guests
/// out. Each has tests here that fail in a daemon which falls into it; a style test holds the list
/// and the tests together.
///
///  1  A malformed request kills the daemon, or is never answered.
///  2  The header's length and the chain's differ.
///  3  Names have a slash, are dots, or do not end.
///  4  The offsets of a directory are taken for positions; listings lose or double names.
///  5  One entry that cannot be looked up ends a listing; what did not fit stays looked up.
///  6  The dots of a listing name nodes, and the root's parent shows.
///  7  FORGET counts too much, names what is not there, or races a LOOKUP; node ids come again.
///  8  Hard links are different files, or a reused inode number is the old file.
///  9  What was just made is looked up by its name, which the host has given to another.
/// 10  CREATE opens what is there already, whatever it is and wherever it leads.
/// 11  Flags of RENAME2 are left out without a word.
/// 12  A file without a name cannot be given one.
/// 13  SETATTR of what cannot be opened blocks or fails; its answer is old.
/// 14  A write by another user leaves set-user bits and capabilities.
/// 15  The umask is applied where a default list of rights stands in its place.
/// 16  The size of an attribute's value or list is not that of what is given out.
/// 17  Making things with a security context leaks descriptors, or leaves half of them.
/// 18  Locks only seem to work, or one that waits holds up everybody.
/// 19  What the host has replaced is served for ever.
/// 20  Inode numbers of submounts are mixed up.
/// 21  Appending goes to the wrong place, or write-back is appended.
/// 22  Sizes of reads and writes are believed.
/// 23  Fifos, sockets and devices are opened; flags of opening are passed on.
/// 24  INIT of another kind; structures whose size depends on it.
/// 25  The used length is not what the answer says.
/// 26  When descriptors run out, the share is gone for good.
/// 27  What is written into the guest's memory is missing from the dirty log.
/// 28  A ring stops, or memory changes, while requests are in flight.
/// 29  Closing what a guest leaves behind takes for ever.
/// 30  What the host fails half way is answered as if less had been asked for.
///
/// What is lost when a guest moves has tests of its own: moves_test.cc.
#pragma once

#include <string_view>

#include "tests/fs/fs_test.h"

namespace outrigger::testing {

class FsTraps : public FsTest {};

}  // namespace outrigger::testing
