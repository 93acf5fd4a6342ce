// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/zoned/zone_job.h"

#include <cerrno>

#include "devices/blk/zoned/zoned_transfer.h"

namespace outrigger::blk {

void ZoneJob::look() {
    looked = host->report(offset_bytes, std::span(&zone, 1)) == 1;
}

int32_t ZoneJob::run() {
    looked = false;
    switch (kind) {
        case Kind::kReport:
            return host->report(offset_bytes, report);
        case Kind::kLook:
            look();
            return looked ? 0 : -EIO;
        case Kind::kChange: {
            const int32_t result = host->manage(command, offset_bytes, length_bytes);
            look();
            return result;
        }
        case Kind::kResetAll: {
            const int32_t result = host->manage(command, 0, table->disk_bytes());
            const int32_t learnt = table->learn_all(*host);
            return result != 0 ? result : learnt;
        }
    }
    return -EINVAL;
}

void ZoneJob::on_complete(int32_t result, uint32_t /*cqe_flags*/) {
    owner_.on_job(result);
}

int32_t run_zone_job(int /*fd*/, IoOperation& operation) {
    return static_cast<ZoneJob&>(operation).run();
}

}  // namespace outrigger::blk
