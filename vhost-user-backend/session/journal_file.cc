// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/journal_file.h"

#include <atomic>
#include <cstring>
#include <utility>

#include <sys/stat.h>

#include "vhost-user-backend/base/crc32c.h"
#include "vhost-user-backend/base/platform.h"
#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger {
namespace {

/// "OUTRIGJ" and the version of this layout.
constexpr uint64_t kMagic = 0x4f55'5452'4947'4a03;

/// The first page: what this is, and the progress, on a cache line of its own.
constexpr size_t kProgressAt = 64;
constexpr size_t kOwedAt = 128;
/// Both begin a page, however large the system's pages are.
constexpr size_t kNoteAt = 65536;
constexpr size_t kCopiesAt = 2 * kNoteAt;

struct CopyHeader {
    uint64_t sequence;
    uint32_t length;
    uint32_t progress;  // until the progress word speaks of this copy
    uint32_t checksum;  // of all that, and of the bytes
    uint32_t unused;    // 0
};

static_assert(sizeof(CopyHeader) == 24);

/// Of the page at kNoteAt: NotedMessage::moved, and the sequence number of the copy that has the
/// reply. The rest of the NotedMessage lies before that page, in memory that is ours alone: whoever
/// else has the file must neither learn where our memory is nor say what the kernel is to send.
constexpr size_t kNoteSequenceAt = 8;
constexpr size_t kNoteBytes = 16;
static_assert(sizeof(platform::NotedMessage) - offsetof(platform::NotedMessage, moved) <=
              kNoteSequenceAt);

constexpr size_t kCopyBytes = sizeof(CopyHeader) + JournalFile::kContentBytesMax;
constexpr size_t kFileBytes = kCopiesAt + 2 * kCopyBytes;

/// The progress word: the sequence number that it belongs to, and the step.
constexpr unsigned kStepBits = 2;
constexpr uint32_t kStepMask = (1U << kStepBits) - 1;

uint32_t checksum_of(const CopyHeader& header, std::span<const std::byte> bytes) {
    const auto head = std::as_bytes(std::span(&header, 1)).first(offsetof(CopyHeader, checksum));
    return crc32c(bytes, crc32c(head));
}

std::atomic_ref<uint64_t> word_at(const Mapping& mapping, size_t offset) {
    // SAFETY: the mapping is larger and aligned to pages, the word to 64 bytes; it lives as long as
    // the journal. Of processes only one writes at a time.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return std::atomic_ref(*reinterpret_cast<uint64_t*>(mapping.data() + offset));
}

platform::NotedMessage& noted_message(const Mapping& note) {
    constexpr size_t kBefore = offsetof(platform::NotedMessage, moved);
    static_assert(kBefore % alignof(platform::NotedMessage) == 0);
    // SAFETY: a page is before what is mapped, so it is all there, and aligned; it lives as long as
    // the journal. Any bytes are such a message, and who sends it writes its pointers first.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return *reinterpret_cast<platform::NotedMessage*>(note.data() - kBefore);
}

}  // namespace

struct JournalFile::Copy {
    uint64_t sequence;
    Progress progress;
    std::vector<std::byte> bytes;
};

JournalFile::JournalFile(UniqueFd fd, Mapping mapping, Mapping note)
    : fd_(std::move(fd)), mapping_(std::move(mapping)), note_(std::move(note)) {
    // The kernel notes there what a process has sent that is being killed, and such a process does
    // not wait for a page that was swapped out.
    platform::lock_pages(note_.whole());
}

Result<JournalFile> JournalFile::map(UniqueFd fd) {
    Mapping mapping = OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kFileBytes));
    Mapping note = OUTRIGGER_TRY(Mapping::map_file_behind_page(fd.get(), kNoteAt, kNoteBytes));
    return JournalFile(std::move(fd), std::move(mapping), std::move(note));
}

Result<JournalFile> JournalFile::create() {
    UniqueFd fd = OUTRIGGER_TRY(create_shared_memory("outrigger-journal", kFileBytes));
    JournalFile file = OUTRIGGER_TRY(map(std::move(fd)));
    std::memcpy(file.mapping_.data(), &kMagic, sizeof kMagic);
    return file;
}

Result<JournalFile> JournalFile::open(UniqueFd fd) {
    struct stat status {};

    // Sealed, so that nobody can take the pages away under us.
    if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
        static_cast<uint64_t>(status.st_size) != kFileBytes ||
        !platform::is_sealed_against_shrinking(fd.get())) {
        return failure(Error{.message = "what the keeper has is no session's journal"});
    }
    JournalFile file = OUTRIGGER_TRY(map(std::move(fd)));
    uint64_t magic = 0;
    std::memcpy(&magic, file.mapping_.data(), sizeof magic);
    if (magic != kMagic) {
        return failure(Error{.message = "the session's journal is of another version"});
    }
    for (size_t which = 0; which < 2; ++which) {
        if (const auto copy = file.read_copy(which); copy && copy->sequence > file.sequence_) {
            file.sequence_ = copy->sequence;
        }
    }
    return file;
}

std::byte* JournalFile::copy_at(size_t which) const {
    return mapping_.data() + kCopiesAt + which * kCopyBytes;
}

std::optional<JournalFile::Copy> JournalFile::read_copy(size_t which) const {
    CopyHeader header;
    std::memcpy(&header, copy_at(which), sizeof header);
    if (header.sequence == 0 || header.sequence % 2 != which || header.length > kContentBytesMax) {
        return std::nullopt;
    }
    const std::byte* const start = copy_at(which) + sizeof header;
    Copy copy{.sequence = header.sequence,
              .progress = static_cast<Progress>(header.progress & kStepMask),
              .bytes = {start, start + header.length}};
    if (checksum_of(header, copy.bytes) != header.checksum) {
        return std::nullopt;
    }
    return copy;
}

std::optional<JournalFile::Content> JournalFile::read() const {
    auto newest = read_copy(0);
    if (auto other = read_copy(1); other && (!newest || other->sequence > newest->sequence)) {
        newest = std::move(other);
    }
    if (!newest) {
        return std::nullopt;
    }
    // Relaxed: the writer is this thread, or gone; or it is anybody, and then all is checked.
    const uint64_t word = word_at(mapping_, kProgressAt).load(std::memory_order_relaxed);
    const bool is_its = word >> kStepBits == newest->sequence;
    const bool noted =
        word_at(note_, kNoteSequenceAt).load(std::memory_order_relaxed) == newest->sequence;
    const std::atomic_ref<unsigned> sent(noted_message(note_).moved);
    return Content{.bytes = std::move(newest->bytes),
                   .progress = is_its ? static_cast<Progress>(word & kStepMask) : newest->progress,
                   .sent = noted ? std::optional<uint32_t>(sent.load(std::memory_order_relaxed))
                                 : std::nullopt};
}

bool JournalFile::write(std::span<const std::byte> bytes, Progress progress) {
    if (bytes.size() > kContentBytesMax) {
        return false;
    }
    CopyHeader header{.sequence = sequence_ + 1,
                      .length = static_cast<uint32_t>(bytes.size()),
                      .progress = static_cast<uint32_t>(progress),
                      .checksum = 0,
                      .unused = 0};
    header.checksum = checksum_of(header, bytes);
    std::byte* const at = copy_at(header.sequence % 2);
    // In any order: what is half written has another checksum. A killed process's stores are seen
    // up to some point of this, and none of the other copy.
    if (!bytes.empty()) {
        std::memcpy(at + sizeof header, bytes.data(), bytes.size());
    }
    std::memcpy(at, &header, sizeof header);
    sequence_ = header.sequence;
    return true;
}

void JournalFile::set_owed(size_t owed) {
    // Relaxed: pairs with the death of this process, and goes with nothing else.
    word_at(mapping_, kOwedAt).store(owed, std::memory_order_relaxed);
}

size_t JournalFile::owed() const {
    return word_at(mapping_, kOwedAt).load(std::memory_order_relaxed);
}

platform::NotedMessage& JournalFile::begin_reply() {
    platform::NotedMessage& message = noted_message(note_);
    message = {};
    word_at(note_, kNoteSequenceAt).store(sequence_, std::memory_order_relaxed);
    set_progress(Progress::kReplying);  // a release: the note goes before it
    return message;
}

void JournalFile::set_progress(Progress progress) {
    // Release: behind the copy that it belongs to. Pairs with the death of this process.
    word_at(mapping_, kProgressAt)
        .store(sequence_ << kStepBits | static_cast<uint64_t>(progress), std::memory_order_release);
}

}  // namespace outrigger
