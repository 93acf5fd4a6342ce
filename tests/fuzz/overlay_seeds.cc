// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/overlay_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

class OverlaySeed final {
  public:
    /// Of clusters of 4096 bytes.
    explicit OverlaySeed(size_t clusters) { script_.u8(0).u16(clusters - 1); }

    OverlaySeed& present(size_t cluster, size_t count) {
        script_.op(OverlayOp::kPresent).u16(cluster).u8(count - 1);
        return *this;
    }

    OverlaySeed& poke_header(size_t copy, size_t offset, uint64_t value, bool fix) {
        script_.op(OverlayOp::kPokeHeader).u8(copy).u8(fix ? 1 : 0).u16(offset).u32(value);
        return *this;
    }

    OverlaySeed& poke_page(size_t page, size_t copy, size_t offset, uint64_t value, bool fix) {
        script_.op(OverlayOp::kPokePage).u8(page).u8(copy);
        script_.u8(fix ? 1 : 0).u16(offset).u32(value);
        return *this;
    }

    OverlaySeed& cut_write(size_t bytes) {
        script_.op(OverlayOp::kCutWrite).u16(bytes);
        return *this;
    }

    OverlaySeed& resize(size_t bytes) {
        script_.op(OverlayOp::kResize).u32(bytes);
        return *this;
    }

    OverlaySeed& op(OverlayOp op) {
        script_.op(op);
        return *this;
    }

    [[nodiscard]] const std::vector<uint8_t>& script() const { return script_.script(); }

  private:
    ScriptWriter script_;
};

}  // namespace

void add_overlay_seeds(Seeds& seeds) {
    using Op = OverlayOp;
    const auto add = [&](const char* name, const OverlaySeed& seed) {
        seeds[std::string("overlay-metadata/") + name] = seed.script();
    };
    add("commit-close-and-reopen",
        OverlaySeed(32900)
            .present(5, 3)
            .present(32600, 10)
            .op(Op::kCommit)
            .present(6, 20)
            .op(Op::kReopen)
            .present(100, 64)
            .op(Op::kClose)
            .op(Op::kReopen));
    add("torn-page",
        OverlaySeed(100)
            .present(1, 1)
            .op(Op::kCommit)
            .present(2, 1)
            .cut_write(100)
            .op(Op::kCommit)
            .op(Op::kReopen)
            .present(3, 1)
            .op(Op::kCommit)
            .op(Op::kReopen));
    add("failed-sync",
        OverlaySeed(100)
            .present(1, 1)
            .op(Op::kFailSync)
            .op(Op::kCommit)
            .op(Op::kCommit)
            .op(Op::kReopen));
    add("header-with-one-good-copy",
        OverlaySeed(100).poke_header(1, 40, 0, false).op(Op::kReopen).present(0, 9).op(Op::kClose));
    add("header-of-a-huge-disk",
        OverlaySeed(100).poke_header(1, 36, 0x100, true).op(Op::kReopen).op(Op::kReopen));
    add("header-of-other-clusters",
        OverlaySeed(100)
            .poke_header(1, 40, 8192, true)
            .op(Op::kReopen)
            .present(49, 5)
            .op(Op::kCommit)
            .op(Op::kReopen));
    add("bits-behind-the-end",
        OverlaySeed(100).poke_page(0, 0, 44, 0xffff'ffff, true).op(Op::kReopen).op(Op::kClose));
    add("page-without-a-copy",
        OverlaySeed(100)
            .poke_page(0, 0, 50, 1, false)
            .poke_page(0, 1, 50, 1, false)
            .op(Op::kReopen));
    add("clear-while-writes-fail",
        OverlaySeed(32900)
            .present(0, 64)
            .present(32899, 1)
            .op(Op::kCommit)
            .cut_write(1000)
            .op(Op::kClear)
            .op(Op::kClear));
    add("state-and-size",
        OverlaySeed(100)
            .op(Op::kUpdateHeader)
            .resize(1 << 20)
            .op(Op::kReopen)
            .resize(0)
            .op(Op::kReopen));
}

}  // namespace outrigger::fuzz
