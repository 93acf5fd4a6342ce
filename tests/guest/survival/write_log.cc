// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/survival/write_log.h"

#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger::testing {

Result<std::unique_ptr<WriteLog>> WriteLog::open(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    // Sparse: only what is noted takes space.
    if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(kBytes)) != 0) {
        return failure(error_from_errno("cannot make the log of writes " + path));
    }
    std::unique_ptr<WriteLog> log(
        new WriteLog(OUTRIGGER_TRY(Mapping::map_file(fd.get(), 0, kBytes))));
    log->header().in_flight.store(0, std::memory_order_relaxed);
    log->header().opened.fetch_add(1, std::memory_order_relaxed);
    return log;
}

void WriteLog::note(uint64_t block, uint64_t generation) {
    const uint64_t place = header().records.fetch_add(1, std::memory_order_relaxed);
    OUTRIGGER_ASSERT(place < kRecordsMax);
    Record& record = records()[place];
    record.block = block;
    // Release: the block is there before the generation that makes it count. The reader is another
    // process, after this one has ended.
    record.generation.store(generation, std::memory_order_release);
}

WriteLog::Header& WriteLog::header() const {
    // SAFETY: the mapping is page-aligned and kBytes long; all that write it use these types.
    return *reinterpret_cast<Header*>(mapping_.data());
}

WriteLog::Record* WriteLog::records() const {
    // SAFETY: kRecordsMax of them follow the header, whose size keeps them aligned.
    return reinterpret_cast<Record*>(mapping_.data() + sizeof(Header));
}

}  // namespace outrigger::testing
