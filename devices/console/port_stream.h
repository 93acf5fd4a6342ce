// SPDX-License-Identifier: Apache-2.0
/// The bytes of one port on their way: what the guest wrote (and a while ago, for viewers to come),
/// and what it has yet to read. Queue workers are at one end, the host thread at the other.
///
/// A console never makes the guest wait: the oldest bytes make room, and a reader that has not had
/// them misses them. Any other port holds the guest back while somebody has yet to take what it
/// wrote (hold_from()).
///
/// All of it may lie in memory that outlives this process. Then whoever goes on finds each byte
/// that was here, once: the head, which says where they are, is stored as a whole, before bytes are
/// overwritten and behind those that are new.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "vhost-user-backend/base/kept_record.h"
#include "vhost-user-backend/virtq/chain_reader.h"
#include "vhost-user-backend/virtq/chain_writer.h"

#include "devices/console/byte_ring.h"

namespace outrigger::console {

class PortStream final {
  public:
    /// How far the guest of a port that is no console may be ahead of the host.
    static constexpr size_t kWindowBytes = size_t{256} << 10;
    /// Kept besides, so that a chain that is begun fits, whatever room there was. More than that
    /// in one chain loses its beginning.
    static constexpr size_t kChainBytesMax = size_t{1792} << 10;
    /// What the host may be ahead of the guest.
    static constexpr size_t kInputBytes = size_t{64} << 10;

    /// Of memory for it.
    [[nodiscard]] static size_t bytes(bool waits, size_t replay_bytes);

    /// `replay_bytes`: how much of the past a new viewer gets. `kept`: bytes() of memory, zeroed or
    /// as another process left it; empty: this process alone has it.
    PortStream(bool waits, size_t replay_bytes, std::span<std::byte> kept = {});

    // --- The guest's end: queue workers, and for emergencies the control thread ------------------

    /// May a chain be taken? If not, take_room_wish() will say so on the other side.
    [[nodiscard]] bool has_room();

    /// Takes all that `reader` has, unless `was_lost` then says that the guest's memory was gone.
    /// Before that `note` is told which chain this is, for has_taken().
    template <class Note, class WasLost>
    void append_output(ChainReader reader, Note note, WasLost was_lost);
    void append_output(std::span<const std::byte> bytes);

    /// Was the chain of that number taken, by an earlier process perhaps?
    [[nodiscard]] bool has_taken(uint64_t chain) const;

    [[nodiscard]] bool has_input();

    /// Moves input into `writer`; returns how many bytes. `note` is told that, and where the input
    /// begins behind them, for note_input_taken(), when the writer has them and nobody has lost
    /// them yet.
    template <class Note>
    size_t take_input(ChainWriter& writer, Note note);

    /// An earlier process gave the guest the input before `position`.
    void note_input_taken(uint64_t position);

    // --- The host's end: the host thread ---------------------------------------------------------

    struct Ends {
        uint64_t begin = 0;
        uint64_t end = 0;
    };

    /// The part of the guest's output that is there.
    [[nodiscard]] Ends output() const;

    /// Where somebody who comes now begins: what is to be replayed, and whatever nobody had yet.
    [[nodiscard]] uint64_t first_for_new_viewer() const;

    /// Copies output from `position` on, which is moved to the oldest byte if that is behind it;
    /// returns how many bytes. `missed` grows by what was passed over.
    size_t copy_output(uint64_t& position, std::span<std::byte> out, uint64_t& missed);

    /// Whoever the guest waits for has had everything before `position`; nullopt: it waits for
    /// nobody. `delivered`: from where on nobody has had it.
    void hold_from(std::optional<uint64_t> position, uint64_t delivered);

    /// As hold_from() was told last.
    [[nodiscard]] uint64_t delivered() const;

    /// Did has_room() say no, and would it say yes now? Once for each no.
    [[nodiscard]] bool take_room_wish();

    [[nodiscard]] size_t input_room();
    /// At most input_room() bytes.
    void append_input(std::span<const std::byte> bytes);

    // The same in steps, for bytes that come straight into the memory. lock_input() is held from
    // the first to the last: nobody else puts anything there.

    [[nodiscard]] std::unique_lock<std::mutex> lock_input() {
        return std::unique_lock(input_mutex_);
    }

    [[nodiscard]] uint64_t input_end() const;

    /// Where `count` bytes from `position` on come to lie; nothing when that is not the input's
    /// end, or there is no room.
    [[nodiscard]] std::optional<std::array<std::span<std::byte>, 2>> input_space(uint64_t position,
                                                                                 size_t count);
    /// They are there.
    void commit_input(uint64_t position, size_t count);

    /// Is the host to be told when input has been taken? Set by input_room() of 0.
    [[nodiscard]] bool take_input_wish() { return input_wished_.exchange(false); }

    // --- Device state ----------------------------------------------------------------------------

    struct Saved {
        std::vector<std::byte> output{};  ///< what a new viewer would get
        std::vector<std::byte> input{};
    };

    [[nodiscard]] Saved save() const;
    /// `saved.input` has at most kInputBytes. Of the output as much stays as there is room for.
    void load(const Saved& saved);

    /// Bytes that the guest wrote and read so far.
    [[nodiscard]] uint64_t output_bytes() const { return output().end; }

    [[nodiscard]] uint64_t input_bytes() const;

  private:
    /// Where everything is.
    struct Head {
        uint64_t output_begin = 0;
        uint64_t output_end = 0;
        uint64_t input_begin = 0;
        uint64_t input_end = 0;
        uint64_t chains = 0;
        uint64_t is_held = 0;
        uint64_t held_from = 0;
        uint64_t delivered = 0;
    };

    [[nodiscard]] bool has_room_locked() const;
    [[nodiscard]] uint64_t first_for_new_viewer_locked() const;
    void take_up(const Head& head);
    void store_head();

    const bool waits_;
    const size_t replay_bytes_;
    std::unique_ptr<std::byte[]> own_;     // null: the memory is somebody else's
    std::mutex input_mutex_;               // before mutex_; only one at a time appends input
    mutable std::mutex mutex_;             // what follows
    std::optional<KeptValue<Head>> head_;  // nothing: nobody goes on with it
    ByteRing output_;
    ByteRing input_;
    uint64_t chains_ = 0;  // of the guest's that were taken
    std::optional<uint64_t> held_from_;
    uint64_t delivered_ = 0;
    bool room_wished_ = false;
    std::atomic<bool> input_wished_ = false;
};

template <class Note, class WasLost>
void PortStream::append_output(ChainReader reader, Note note, WasLost was_lost) {
    const std::lock_guard lock(mutex_);
    note(chains_);
    if (reader.remaining() > output_.capacity()) {
        reader.skip(reader.remaining() - output_.capacity());
    }
    const auto count = static_cast<size_t>(reader.remaining());
    if (count > output_.room()) {
        output_.make_room(count);
        store_head();
    }
    for (const auto& piece : output_.prepare(count)) {
        reader.read(piece);
    }
    if (!was_lost()) {
        output_.commit(count);
    }
    ++chains_;
    store_head();
}

template <class Note>
size_t PortStream::take_input(ChainWriter& writer, Note note) {
    const std::lock_guard lock(mutex_);
    size_t done = 0;
    for (const auto& piece : input_.view(input_.begin(), input_.size())) {
        done += writer.write(piece);
    }
    note(done, input_.begin() + done);
    input_.drop(done);
    store_head();
    return done;
}

}  // namespace outrigger::console
