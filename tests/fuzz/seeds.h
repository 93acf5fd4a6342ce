// SPDX-License-Identifier: Apache-2.0
/// The committed scripts, by "target/name".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace outrigger::fuzz {

using Seeds = std::map<std::string, std::vector<uint8_t>>;

void add_control_seeds(Seeds& seeds);
void add_stream_seeds(Seeds& seeds);
void add_ring_seeds(Seeds& seeds);
void add_blk_seeds(Seeds& seeds);
void add_qcow2_seeds(Seeds& seeds);
void add_overlay_seeds(Seeds& seeds);
void add_console_seeds(Seeds& seeds);
void add_fs_seeds(Seeds& seeds);
void add_net_seeds(Seeds& seeds);
void add_reply_seeds(Seeds& seeds);
void add_session_seeds(Seeds& seeds);
void add_state_seeds(Seeds& seeds);
void add_vsock_seeds(Seeds& seeds);

}  // namespace outrigger::fuzz
