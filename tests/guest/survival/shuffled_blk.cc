// SPDX-License-Identifier: Apache-2.0
// outrigger-blk with a ShuffledImage before its image: what the survival tests kill. Everything but
// the image is the product's own code.
#include <memory>
#include <string>

#include "vhost-user-backend/daemon/device_program.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/blk_sandbox.h"
#include "devices/blk/file_image.h"
#include "devices/blk/image_file.h"
#include "tests/guest/survival/shuffled_image.h"
#include "tests/guest/survival/write_log.h"

namespace outrigger::testing {
namespace {

constexpr OptionSpec kOptions[] = {
    {.name = "blk-file", .value_name = "PATH", .help = "Serve this image file"},
    {.name = "num-queues",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Let the guest use up to N queues",
     .default_value = "64",
     .number_min = 1,
     .number_max = 256},
    {.name = "shuffle-us",
     .kind = OptionKind::kNumber,
     .value_name = "US",
     .help = "Delay each request by up to so many microseconds",
     .default_value = "5000",
     .number_max = 10'000'000},
    {.name = "write-log",
     .value_name = "PATH",
     .help = "Note in this file which blocks of the verifier were written, in order"},
};

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    std::unique_ptr<WriteLog> log;
    if (const auto path = values.text("write-log")) {
        log = OUTRIGGER_TRY(WriteLog::open(*path));
    }
    auto file = OUTRIGGER_TRY(blk::ImageFile::open({.path = values.text("blk-file").value_or("")}));
    auto image = std::make_unique<ShuffledImage>(
        std::make_unique<blk::FileImage>(std::move(file), blk::IoEngineKind::kAuto),
        std::move(log),
        std::chrono::microseconds(values.number("shuffle-us").value_or(0)));
    blk::BlkDeviceOptions options;
    options.shape.queue_count = static_cast<uint16_t>(values.number("num-queues").value_or(1));
    return std::make_unique<blk::BlkDevice>(std::move(image), options);
}

const DeviceProgram kProgram = {
    .name = "outrigger-shuffled-blk",
    .type = "block",
    .summary = "A disk for tests that answers its requests in random order",
    .options = kOptions,
    .create_device = create_device,
    .sandbox = blk::blk_sandbox_needs(),
};

}  // namespace
}  // namespace outrigger::testing

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::testing::kProgram);
}
