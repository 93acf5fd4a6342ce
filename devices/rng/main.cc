// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include "vhost-user-backend/daemon/device_program.h"

#include "devices/rng/entropy_source.h"
#include "devices/rng/rng_device.h"

namespace outrigger::rng {
namespace {

constexpr std::array kOptions = {
    OptionSpec{.name = "source",
               .kind = OptionKind::kText,
               .value_name = "SOURCE",
               .help = "Where random bytes come from: getrandom (the kernel's generator), the path "
                       "of a file or device such as /dev/hwrng, or unix:PATH, a stream socket that "
                       "sends raw bytes. When it ends, getrandom takes over",
               .default_value = "getrandom"},
    OptionSpec{.name = "max-bytes",
               .kind = OptionKind::kSize,
               .value_name = "BYTES",
               .help = "Give the guest at most so many bytes within each period; without it there "
                       "is no limit",
               .number_min = 1},
    OptionSpec{.name = "period",
               .kind = OptionKind::kNumber,
               .value_name = "MS",
               .help = "Length of the period of --max-bytes in milliseconds",
               .default_value = "65536",
               .number_min = 1,
               .number_max = 24ULL * 60 * 60 * 1000},
};

constexpr SystemCallRule kSystemCalls[] = {
    {.name = "getrandom"},
};

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    RngOptions options;
    options.source =
        OUTRIGGER_TRY(open_entropy_source(values.text("source").value_or("getrandom")));
    options.bytes_max = values.number("max-bytes");
    if (const auto period = values.number("period")) {
        options.period = std::chrono::milliseconds(*period);
    }
    return std::make_unique<RngDevice>(std::move(options));
}

constexpr DeviceProgram kProgram{
    .name = "outrigger-rng",
    .type = "rng",
    .summary = "A vhost-user back end that serves a virtio entropy device",
    .options = kOptions,
    .capabilities = {},
    .create_device = create_device,
    .sandbox = {.system_calls = kSystemCalls},
};

}  // namespace
}  // namespace outrigger::rng

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::rng::kProgram);
}
