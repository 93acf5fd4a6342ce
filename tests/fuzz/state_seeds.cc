// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/state_script.h"
#include "tests/states/state_samples.h"

namespace outrigger::fuzz {
namespace {

std::span<const uint8_t> raw(const std::string& text) {
    // SAFETY: bytes of any kind may be looked at as uint8_t.
    return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

ScriptWriter begin(StateScript kind) {
    ScriptWriter out;
    out.op(kind);
    return out;
}

/// Of the block device: a mode that it knows, or not, and no configuration.
ScriptWriter disk_fields(StateScript kind, uint8_t mode) {
    ScriptWriter out = begin(kind);
    out.u8(0).u8(1);               // format, device
    out.u8(1).u64(0x1'3000'0046);  // features
    out.u8(1).u8(3).u16(255).u16(17).u16(17);
    out.u8(1).u8(0).u8(4).u8(0).u8(1).u8(1).u8(mode);
    return out;
}

}  // namespace

void add_state_seeds(Seeds& seeds) {
    for (const auto& [name, bytes] : testing::sample_states()) {
        std::string flat = name;
        flat[flat.find('/')] = '-';
        seeds["device-state/" + flat] = begin(StateScript::kBytes).bytes(raw(bytes)).script();
        seeds["device-state/cut-" + flat] =
            begin(StateScript::kBytes).bytes(raw(bytes.substr(0, bytes.size() / 2))).script();
    }
    seeds["device-state/empty"] = begin(StateScript::kBytes).script();
    seeds["device-state/magic-alone"] =
        begin(StateScript::kBytes).bytes(raw("\x09OUTRSTAT")).script();
    seeds["device-state/sections-of-nothing"] =
        begin(StateScript::kBytes)
            .bytes(raw("\x09OUTRSTAT" + std::string("\x22\x00\x22\x00\x22\x00", 6)))
            .script();
    seeds["device-state/nested-groups"] =
        begin(StateScript::kBytes).bytes(raw("\x09OUTRSTAT" + std::string(64, '\x7b'))).script();
    seeds["device-state/disk-mode-without-configuration"] =
        disk_fields(StateScript::kFields, 3).script();
    seeds["device-state/disk-mode-of-no-meaning"] =
        disk_fields(StateScript::kFields, 0xf0).script();
    seeds["device-state/damaged-in-its-header"] =
        disk_fields(StateScript::kDamage, 3).u16(12).u8(3).u16(20).script();
    seeds["device-state/damaged-in-a-section"] =
        disk_fields(StateScript::kDamage, 3).u16(60).u8(0).u16(59).script();
}

}  // namespace outrigger::fuzz
