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
constexpr uint64_t kMagic = 0x4f55'5452'4947'4a02;

/// The first page: what this is, and the progress, on a cache line of its own.
constexpr size_t kProgressAt = 64;
constexpr size_t kOwedAt = 128;
constexpr size_t kReplyNoteAt = 192;
constexpr size_t kCopiesAt = 4096;

struct CopyHeader {
    uint64_t sequence;
    uint32_t length;
    uint32_t progress;  // until the progress word speaks of this copy
    uint32_t checksum;  // of all that, and of the bytes
    uint32_t unused;    // 0
};

static_assert(sizeof(CopyHeader) == 24);

/// What begin_reply() gives, and the sequence number of the copy that has the reply.
struct ReplyNote {
    uint64_t sequence;
    platform::NotedMessage noted;
};

static_assert(kReplyNoteAt + sizeof(ReplyNote) <= kCopiesAt);

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

ReplyNote& reply_note(const Mapping& mapping) {
    // SAFETY: as above; any bytes are a note, and its pointers are never followed.
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
    return *reinterpret_cast<ReplyNote*>(mapping.data() + kReplyNoteAt);
}

}  // namespace

struct JournalFile::Copy {
    uint64_t sequence;
    Progress progress;
    std::vector<std::byte> bytes;
};

JournalFile::JournalFile(UniqueFd fd, Mapping mapping)
    : fd_(std::move(fd)), mapping_(std::move(mapping)) {
    // The kernel notes there what a process has sent that is being killed, and such a process does
    // not wait for a page that was swapped out.
    platform::lock_pages(mapping_.whole().first(kCopiesAt));
}

Result<JournalFile> JournalFile::create() {
    UniqueFd fd = OUTRIGGER_TRY(create_shared_memory("outrigger-journal", kFileBytes));
    Mapping mapping = OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kFileBytes));
    std::memcpy(mapping.data(), &kMagic, sizeof kMagic);
    return JournalFile(std::move(fd), std::move(mapping));
}

Result<JournalFile> JournalFile::open(UniqueFd fd) {
    struct stat status {};

    // Sealed, so that nobody can take the pages away under us.
    if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
        static_cast<uint64_t>(status.st_size) != kFileBytes ||
        !platform::is_sealed_against_shrinking(fd.get())) {
        return failure(Error{.message = "what the keeper has is no session's journal"});
    }
    Mapping mapping = OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kFileBytes));
    uint64_t magic = 0;
    std::memcpy(&magic, mapping.data(), sizeof magic);
    if (magic != kMagic) {
        return failure(Error{.message = "the session's journal is of another version"});
    }
    JournalFile file(std::move(fd), std::move(mapping));
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
    // Relaxed: the writer is this thread, or gone.
    const uint64_t word = word_at(mapping_, kProgressAt).load(std::memory_order_relaxed);
    const bool is_its = word >> kStepBits == newest->sequence;
    const ReplyNote& note = reply_note(mapping_);
    const bool noted = note.sequence == newest->sequence;
    return Content{.bytes = std::move(newest->bytes),
                   .progress = is_its ? static_cast<Progress>(word & kStepMask) : newest->progress,
                   .sent = noted ? std::optional<uint32_t>(note.noted.sent) : std::nullopt};
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
    ReplyNote& note = reply_note(mapping_);
    note = {.sequence = sequence_, .noted = {}};
    set_progress(Progress::kReplying);  // a release: the note goes before it
    return note.noted;
}

void JournalFile::set_progress(Progress progress) {
    // Release: behind the copy that it belongs to. Pairs with the death of this process.
    word_at(mapping_, kProgressAt)
        .store(sequence_ << kStepBits | static_cast<uint64_t>(progress), std::memory_order_release);
}

}  // namespace outrigger
