// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/overlay/overlay_program.h"

#include <string_view>
#include <utility>

#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/overlay/open_overlay.h"

namespace outrigger::blk {
namespace {

constexpr std::string_view kOnlyWithOverlay[] = {"overlay-create",
                                                 "overlay-size",
                                                 "overlay-cluster",
                                                 "overlay-accept-base",
                                                 "overlay-copy-on-read",
                                                 "overlay-fill"};

constexpr std::string_view kNotWithReadOnly[] = {
    "overlay-create", "overlay-accept-base", "overlay-copy-on-read", "overlay-fill"};

Result<void> usage_error(std::string message) {
    return failure(Error{.message = std::move(message)});
}

}  // namespace

Result<void> check_overlay_options(const OptionValues& values) {
    if (!values.has("overlay")) {
        for (const std::string_view name : kOnlyWithOverlay) {
            if (values.has(name)) {
                return usage_error("--" + std::string(name) + " goes with --overlay=PATH only");
            }
        }
        return {};
    }
    for (const char* const name : {"null-size", "blk-memory"}) {
        if (values.has(name)) {
            return usage_error("--overlay=PATH needs an image: it does not go with --" +
                               std::string(name));
        }
    }
    if (values.text("io-engine") == "uring") {
        return usage_error(
            "--overlay=PATH does not go with --io-engine=uring, because its fill "
            "uses threads: use --io-engine=auto");
    }
    if (values.flag("read-only")) {
        for (const std::string_view name : kNotWithReadOnly) {
            if (values.flag(name)) {
                return usage_error("--" + std::string(name) +
                                   " writes to the layer: it does not go with --read-only");
            }
        }
    }
    if (!is_power_of_two(values.number("overlay-cluster").value_or(kClusterBytesDefault))) {
        return usage_error("--overlay-cluster takes a power of two, 4K to 256K");
    }
    if (values.number("overlay-size").value_or(0) % 512 != 0) {
        return usage_error("--overlay-size takes a multiple of 512");
    }
    return {};
}

Result<std::unique_ptr<Image>> put_overlay_over(std::unique_ptr<Image> base,
                                                const OverlayBase& what,
                                                const OptionValues& values) {
    const bool read_only = values.flag("read-only");
    const BaseIdentity identity =
        identify_base(what.kind, what.path, base->properties().size_bytes);
    OverlayOptions options;
    options.layer = {.path = values.text("overlay").value_or(""),
                     .read_only = read_only,
                     .direct = values.text("cache") == "none",
                     .lock = values.text("lock") != "off"};
    options.create = values.flag("overlay-create");
    options.accept_base = values.flag("overlay-accept-base");
    options.size_bytes = values.number("overlay-size");
    if (const auto cluster_bytes = values.number("overlay-cluster")) {
        options.cluster_bytes = static_cast<uint32_t>(*cluster_bytes);
    }
    options.engine = what.engine;
    options.settings = {.read_only = read_only,
                        .copy_on_read = values.flag("overlay-copy-on-read"),
                        .fill = values.flag("overlay-fill"),
                        .fill_rate = values.number("overlay-fill-rate").value_or(0),
                        .block_bytes = what.block_bytes};
    return open_overlay(std::move(base), identity, options);
}

}  // namespace outrigger::blk
