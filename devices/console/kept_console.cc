// SPDX-License-Identifier: Apache-2.0
#include "devices/console/kept_console.h"

#include <atomic>
#include <optional>
#include <utility>

#include <fmt/core.h>

#include "devices/console/conduit.h"
#include "devices/console/kept_viewers.h"
#include "devices/console/log_file.h"
#include "devices/console/port_control.h"
#include "devices/console/port_stream.h"

namespace outrigger::console {
namespace {

constexpr size_t kLine = 64;
/// In the first word, so that a build which lays it out otherwise does not go on with it.
constexpr uint64_t kLayout = 0x6f75'7472'636f'6e02;

}  // namespace

std::string KeptPort::name(std::string_view what) const {
    return fmt::format("p{}.{}", port, what);
}

KeptConsole::KeptConsole(DeviceKeeper& keeper, std::span<const PortOptions> ports)
    : keeper_(&keeper), ports_(ports.size()) {}

size_t KeptConsole::lay_out(std::byte* memory, std::span<const PortOptions> ports) {
    size_t at = kLine;
    const auto part = [&](size_t bytes) {
        const std::span<std::byte> span =
            memory != nullptr ? std::span(memory + at, bytes) : std::span<std::byte>();
        at += (bytes + kLine - 1) / kLine * kLine;
        return span;
    };
    control_ = part(PortControl::kKeptBytes);
    conduit_ = part(Conduit::kNoteBytes);
    for (size_t i = 0; i < ports.size(); ++i) {
        const PortOptions& options = ports[i];
        ports_[i] = {.keeper = keeper_,
                     .port = static_cast<uint32_t>(i),
                     .stream = part(PortStream::bytes(!options.console, options.replay_bytes)),
                     .viewers = part(KeptViewers::bytes(options.viewers_max)),
                     .size_tellers = part(KeptViewers::bytes(options.viewers_max)),
                     .file = part(LogFile::kKeptBytes),
                     .log = part(LogFile::kKeptBytes)};
    }
    return at;
}

Result<KeptConsole> KeptConsole::open(DeviceKeeper& keeper, std::span<const PortOptions> ports) {
    KeptConsole kept(keeper, ports);
    const size_t bytes = kept.lay_out(nullptr, ports);
    const UniqueFd fd = OUTRIGGER_TRY(keeper.keep("memory", bytes));
    kept.memory_ = OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, bytes));
    // SAFETY: the mapping begins at a page and has more than a word.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    auto& first = *reinterpret_cast<uint64_t*>(kept.memory_.data());
    const std::atomic_ref<uint64_t> layout(first);
    if (layout.load() != 0 && layout.load() != kLayout) {
        return failure(Error{.message = "the process before has laid out its memory otherwise"});
    }
    layout.store(kLayout);
    (void)kept.lay_out(kept.memory_.data(), ports);
    return kept;
}

Result<std::unique_ptr<Conduit>> KeptConsole::open_conduit(std::span<const PortOptions> ports) {
    auto conduit = std::make_unique<Conduit>(OUTRIGGER_TRY(Conduit::open(*keeper_, conduit_)));
    std::optional<PortStream> stream;
    std::optional<KeptViewers> viewers;
    conduit->end_what_was_left([&](uint32_t port) -> Conduit::Port {
        if (port >= ports.size()) {
            return {};
        }
        const PortOptions& options = ports[port];
        stream.emplace(!options.console, options.replay_bytes, ports_[port].stream);
        viewers.emplace(ports_[port].viewers, options.viewers_max);
        return {.stream = &*stream, .viewers = &*viewers};
    });
    return conduit;
}

}  // namespace outrigger::console
