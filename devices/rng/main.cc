// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include "vhost-user-backend/daemon/device_keeper.h"
#include "vhost-user-backend/daemon/device_program.h"

#include "devices/rng/entropy_limit.h"
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
               .number_max = static_cast<uint64_t>(EntropyLimit::kPeriodMax.count())},
};

constexpr SystemCallRule kSystemCalls[] = {
    {.name = "getrandom"},
};

Result<std::unique_ptr<Device>> create_with(const OptionValues& values, DeviceKeeper* keeper) {
    RngOptions options;
    options.source =
        OUTRIGGER_TRY(open_entropy_source(values.text("source").value_or("getrandom")));
    options.limit.bytes_max = values.number("max-bytes").value_or(0);
    if (const auto period = values.number("period")) {
        options.limit.period = std::chrono::milliseconds(*period);
    }
    if (keeper != nullptr) {
        const UniqueFd kept = OUTRIGGER_TRY(keeper->keep("limit", KeptLimit::kKeptBytes));
        options.kept_limit = OUTRIGGER_TRY(Mapping::map_file(kept.get(), 0, KeptLimit::kKeptBytes));
    }
    return std::make_unique<RngDevice>(std::move(options));
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    return create_with(values, nullptr);
}

Result<std::unique_ptr<Device>> create_kept_device(const OptionValues& values,
                                                   DeviceKeeper& keeper) {
    return create_with(values, &keeper);
}

constexpr DeviceProgram kProgram{
    .name = "outrigger-rng",
    .type = "rng",
    .summary = "A vhost-user back end that serves a virtio entropy device",
    .options = kOptions,
    .capabilities = {},
    .create_device = create_device,
    .create_kept_device = create_kept_device,
    .sandbox = {.system_calls = kSystemCalls},
};

}  // namespace
}  // namespace outrigger::rng

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::rng::kProgram);
}
