// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/blk_program.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/checked_math.h"

#include "devices/blk/blk_device.h"
#include "devices/blk/blk_sandbox.h"
#include "devices/blk/file_image.h"
#include "devices/blk/limit_groups.h"
#include "devices/blk/limit_options.h"
#include "devices/blk/memory_image.h"
#include "devices/blk/null_image.h"
#include "devices/blk/overlay/layer_format.h"
#include "devices/blk/overlay/overlay_program.h"
#include "devices/blk/qcow2/qcow2_image.h"
#include "devices/blk/uring_engine.h"
#include "devices/blk/zoned/open_raw_image.h"
#ifdef OUTRIGGER_NBD
#include "devices/blk/nbd/nbd_image.h"
#include "devices/blk/nbd/nbd_sandbox.h"
#include "devices/blk/nbd/nbd_uri.h"
#endif

namespace outrigger::blk {
namespace {

constexpr std::string_view kOnOff[] = {"on", "off"};
constexpr std::string_view kLocks[] = {"on", "running", "off"};
constexpr std::string_view kFormats[] = {"raw", "qcow2"};
constexpr std::string_view kCaches[] = {"writeback", "writethrough", "none"};
constexpr std::string_view kEngines[] = {"auto", "threads", "uring"};
/// The portable build takes a name less.
constexpr std::span<const std::string_view> kEngineChoices =
    std::span(kEngines).first(kPortableBuild ? 2 : 3);
constexpr std::string_view kEngineHelp =
    kPortableBuild ? "How the host is asked to read and write: threads, or auto, which is the same "
                     "here: this build has no io_uring"
                   : "How the host is asked to read and write: uring, threads, or auto: io_uring "
                     "where there is one";
constexpr std::string_view kErrorPolicies[] = {"report", "stop", "enospc"};
constexpr std::string_view kDiscards[] = {"unmap", "ignore"};
#ifdef OUTRIGGER_NBD
constexpr std::string_view kUnflushed[] = {"lost", "kept"};
#endif

constexpr OptionSpec kOptions[] = {
    {.name = "blk-file",
     .kind = OptionKind::kText,
     .value_name = "PATH",
     .help =
         "Serve this image file or block device; a zoned one, with --cache=none, with its zones"},
    // Never guessed: a guest that may write a raw disk can make it look like any format.
    {.name = "image-format",
     .kind = OptionKind::kChoice,
     .value_name = "FORMAT",
     .help = "What the image is: raw, the bytes of the disk; or qcow2, which is served for reading "
             "only",
     .default_value = "raw",
     .choices = kFormats},
    {.name = "allow-backing",
     .kind = OptionKind::kText,
     .value_name = "DIR",
     .help =
         "Open the backing files that a qcow2 image names, raw or qcow2, if they lie below this "
         "directory once symbolic links are resolved; without it an image that has one is "
         "refused"},
    {.name = "read-only",
     .kind = OptionKind::kFlag,
     .help = "Open the image for reading only, and tell the guest so"},
    {.name = "cache",
     .kind = OptionKind::kChoice,
     .value_name = "MODE",
     .help = "How writes are cached until the guest chooses itself: writeback, in the host's page "
             "cache until the guest flushes; writethrough, on stable storage before each is "
             "answered; none, like writeback but past the page cache (O_DIRECT)",
     .default_value = "writeback",
     .choices = kCaches},
    {.name = "discard",
     .kind = OptionKind::kChoice,
     .value_name = "HOW",
     .help = "What becomes of space that the guest discards: unmap gives it back to the host, "
             "ignore keeps it",
     .default_value = "unmap",
     .choices = kDiscards},
    // QEMU asks for a queue per virtual CPU and refuses a back end that has fewer, so the default
    // is more than most guests have CPUs. A queue that is not used costs next to nothing.
    {.name = "num-queues",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Let the guest use up to N queues",
     .default_value = "64",
     .number_min = 1,
     .number_max = 256},
    {.name = "seg-max",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "Let a request have up to N data segments; at most the front end's queue size less 2",
     .default_value = "126",
     .number_min = 1,
     .number_max = 1022},
    {.name = "blk-size",
     .kind = OptionKind::kNumber,
     .value_name = "BYTES",
     .help = "The block size that the guest sees, a power of two; without it the smallest that the "
             "host can access. With --cache=none a smaller one than that is possible, but then the "
             "host reads what surrounds a write before it",
     .number_min = 512,
     .number_max = 65536},
    {.name = "serial",
     .kind = OptionKind::kText,
     .value_name = "TEXT",
     .help = "The disk's serial number, at most 20 bytes; without it there is none"},
    {.name = "io-engine",
     .kind = OptionKind::kChoice,
     .value_name = "ENGINE",
     .help = kEngineHelp,
     .default_value = "auto",
     .choices = kEngineChoices},
    // Not the default, because the guest's disk would be wrong behind a balloon.
    {.name = "fixed-buffers",
     .kind = OptionKind::kChoice,
     .value_name = "on|off",
     .help =
         "With --cache=none: pin the guest's memory as it is used and register it with io_uring, "
         "which saves time for each request. Only for guests whose memory stays what it is: "
         "behind a balloon, or memory that is unplugged, it would give the guest wrong data",
     .default_value = "off",
     .choices = kOnOff},
    {.name = "io-poll",
     .kind = OptionKind::kChoice,
     .value_name = "on|off",
     .help =
         "With --cache=none: look at the host's device for the ends of reads and writes, where "
         "it has queues for that (nvme.poll_queues=N), rather than wait for its interrupts; the "
         "thread does not sleep while any are under way",
     .default_value = "off",
     .choices = kOnOff},
    {.name = "lock",
     .kind = OptionKind::kChoice,
     .value_name = "WHEN",
     .help = "Refuse an image that another process writes, or, unless --read-only, reads and wants "
             "unchanged; the locks are those of QEMU and its tools. on: as long as the daemon has "
             "the image open; running: from when a guest starts the disk until it has stopped it, "
             "so that the daemons at both ends of a live migration may have one raw image open, "
             "and a guest whose disk another one runs cannot start it; off: never",
     .default_value = "on",
     .choices = kLocks},
    {.name = "on-error",
     .kind = OptionKind::kChoice,
     .value_name = "POLICY",
     .help =
         "What becomes of a request that the host fails: report, the guest gets an error; stop, "
         "the request is held and no other is begun until outriggerctl resumes the disk; "
         "enospc, stop when the host has no room and report everything else",
     .default_value = "report",
     .choices = kErrorPolicies},
    {.name = "limit-bytes",
     .value_name = "RATE[:BURST]",
     .help = "Let so many bytes pass in a second, read and written together, like 100M; after a "
             "pause BURST at once, a tenth of the rate without it"},
    {.name = "limit-read-bytes", .value_name = "RATE[:BURST]", .help = "The same for bytes read"},
    {.name = "limit-write-bytes",
     .value_name = "RATE[:BURST]",
     .help = "The same for bytes written, zeroes included"},
    {.name = "limit-ops",
     .value_name = "RATE[:BURST]",
     .help = "The same for requests of any kind"},
    {.name = "limit-read-ops", .value_name = "RATE[:BURST]", .help = "The same for reads"},
    {.name = "limit-write-ops",
     .value_name = "RATE[:BURST]",
     .help = "The same for everything but reads"},
    {.name = "limit-group",
     .value_name = "NAME",
     .help = "Share the limits with all disks of this program that name the same group: they are "
             "those of the first that says any"},
    {.name = "blk-memory",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "Serve a disk of this size in the memory of the program, in place of --blk-file: it "
             "begins with zeroes, takes memory as it is written, and is gone with the program",
     .number_min = 512,
     .number_max = MemoryStore::kSizeMax},
    {.name = "memory-huge-pages",
     .kind = OptionKind::kChoice,
     .value_name = "on|off",
     .help = "Put huge pages behind a --blk-memory disk where the host has them: faster, but what "
             "is written here and there takes 2 MiB each time; without it on",
     .choices = kOnOff},
    {.name = "null-size",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "Serve a disk of this size without storage behind it, to measure all but the storage; "
             "in place of --blk-file",
     .number_min = 512,
     .number_max = uint64_t{1} << 62},
    {.name = "null-read-zeroes",
     .kind = OptionKind::kFlag,
     .help = "Reads of a --null-size disk give zeroes, instead of leaving the guest's buffers"},
    {.name = "overlay",
     .kind = OptionKind::kText,
     .value_name = "PATH",
     .help = "Leave the image as it is, and keep what the guest writes in this file, the layer; "
             "outrigger-blk overlay --help lists what else can be done with one"},
    {.name = "overlay-create",
     .kind = OptionKind::kFlag,
     .help = "Make the layer when there is none; without it a wrong path is an error, not a fresh "
             "disk"},
    {.name = "overlay-size",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "The size of the disk of a new layer, at least that of the image, which is what it is "
             "otherwise; behind the image there are zeroes",
     .number_min = 512,
     .number_max = uint64_t{1} << 50},
    {.name = "overlay-cluster",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "What a new layer takes over from the image at a time, 4K to 256K, a power of two; "
             "64K otherwise",
     .number_min = kClusterBytesMin,
     .number_max = kClusterBytesMax},
    {.name = "overlay-accept-base",
     .kind = OptionKind::kFlag,
     .help = "Take an image that is not what the layer was made over, by its size and its time of "
             "modification, and expect this one from now on"},
    {.name = "overlay-copy-on-read",
     .kind = OptionKind::kFlag,
     .help = "What the guest reads from the image is kept in the layer, too"},
    {.name = "overlay-fill",
     .kind = OptionKind::kFlag,
     .help = "Copy the rest of the image to the layer in the background, from the guest's first "
             "connection on, until the image is not needed any more"},
    {.name = "overlay-fill-rate",
     .kind = OptionKind::kSize,
     .value_name = "SIZE",
     .help = "Copy at most this much a second in the background; 0 for as much as there is",
     .default_value = "0",
     .number_max = uint64_t{1} << 50},
#ifdef OUTRIGGER_NBD
    {.name = "blk-nbd",
     .kind = OptionKind::kText,
     .value_name = "URI",
     .help =
         "Serve the export of an NBD server, in place of --blk-file: nbd://HOST[:PORT]/EXPORT or "
         "nbd+unix:///EXPORT?socket=PATH; nbds and nbds+unix with tls-psk-file=PATH and "
         "tls-username=NAME, or nbds://ADDRESS with tls-certificates=DIR"},
    {.name = "nbd-timeout",
     .kind = OptionKind::kNumber,
     .value_name = "SECONDS",
     .help = "How long a request waits for an NBD server, which may come and go meanwhile, before "
             "it fails",
     .default_value = "30",
     .number_min = 1,
     .number_max = 3600},
    {.name = "nbd-unflushed",
     .kind = OptionKind::kChoice,
     .value_name = "lost|kept",
     .help =
         "What becomes of writes that an NBD server has answered and not flushed when its "
         "connection is lost: lost, perhaps, so that every flush fails from then on until the "
         "daemon is started anew; or kept, because the server, or the host that it writes to, has "
         "them still whenever it comes back",
     .default_value = "lost",
     .choices = kUnflushed},
#endif
};

/// The options that say which disk it is.
constexpr std::string_view kDiskOptions[] = {
    "blk-file",
    "blk-memory",
    "null-size",
#ifdef OUTRIGGER_NBD
    "blk-nbd",
#endif
};

/// Of disks that no storage says it for.
constexpr uint32_t kBlockBytesDefault = 512;

Result<void> usage_error(std::string message) {
    return failure(Error{.message = std::move(message)});
}

/// Of the two that are for io_uring past the page cache.
Result<void> check_direct_option(const OptionValues& values, std::string_view name) {
    if (values.text(name) != "on") {
        return {};
    }
    const std::string option = "--" + std::string(name) + "=on";
    if (kPortableBuild || values.text("io-engine") == "threads") {
        return usage_error(option + " goes with io_uring only, not with threads");
    }
    if (!values.has("blk-file") || values.text("cache") != "none" || values.has("overlay")) {
        return usage_error(option +
                           " goes with --blk-file=PATH and --cache=none only, and without "
                           "--overlay");
    }
    return {};
}

Result<void> check_blk_options(const OptionValues& values) {
    if (std::ranges::count_if(kDiskOptions,
                              [&](std::string_view name) { return values.has(name); }) != 1) {
        return usage_error(
            "give one disk: --blk-file=PATH, the image to serve, or --blk-memory=SIZE, or "
            "--null-size=SIZE"
#ifdef OUTRIGGER_NBD
            ", or --blk-nbd=URI"
#endif
        );
    }
    if (values.flag("null-read-zeroes") && !values.has("null-size")) {
        return usage_error("--null-read-zeroes goes with --null-size=SIZE only");
    }
    if (values.has("memory-huge-pages") && !values.has("blk-memory")) {
        return usage_error("--memory-huge-pages goes with --blk-memory=SIZE only");
    }
    if (values.has("blk-memory") && values.text("cache") == "none") {
        return usage_error("--cache=none is for files: a disk in memory has no page cache");
    }
#ifdef OUTRIGGER_NBD
    if (const auto uri = values.text("blk-nbd")) {
        if (const auto parsed = parse_nbd_uri(*uri); !parsed) {
            return usage_error(parsed.error().message);
        }
        if (values.text("cache") == "none") {
            return usage_error("--cache=none is for files: what an NBD server caches is its own");
        }
    }
#endif
    const bool is_qcow2 = values.text("image-format") == "qcow2";
    // What the other kinds have read of their files would be old when their turn comes.
    if (values.text("lock") == "running" &&
        (!values.has("blk-file") || is_qcow2 || values.has("overlay"))) {
        return usage_error(
            "--lock=running goes with a raw --blk-file=PATH only, without --overlay");
    }
    if (is_qcow2 && !values.has("blk-file")) {
        return usage_error("--image-format=qcow2 goes with --blk-file=PATH only");
    }
    if (is_qcow2 && values.text("cache") == "none") {
        return usage_error(
            "--image-format=qcow2 goes without --cache=none: the tables of the image "
            "are read through the page cache");
    }
    if (is_qcow2 && !values.has("overlay") &&
        (values.text("cache") == "writethrough" || values.text("discard") == "ignore")) {
        return usage_error(
            "--image-format=qcow2 is served for reading only, so --cache=writethrough and "
            "--discard=ignore mean nothing: they go with --overlay=PATH");
    }
    if (values.has("allow-backing") && !is_qcow2) {
        return usage_error("--allow-backing=DIR goes with --image-format=qcow2 only");
    }
    const uint64_t block_bytes = values.number("blk-size").value_or(kBlockBytesDefault);
    if (!is_power_of_two(block_bytes)) {
        return usage_error("--blk-size takes a power of two, 512 to 65536");
    }
    for (const char* const name : {"blk-memory", "null-size"}) {
        if (values.number(name).value_or(0) % block_bytes != 0) {
            return usage_error("--" + std::string(name) + " takes a multiple of the block size, " +
                               std::to_string(block_bytes));
        }
    }
    OUTRIGGER_TRY(check_direct_option(values, "fixed-buffers"));
    OUTRIGGER_TRY(check_direct_option(values, "io-poll"));
    if (values.text("fixed-buffers") == "on") {
        // Registering a page brings it in: the disk would wait for all of the guest's memory.
        if (values.flag("postcopy")) {
            return usage_error("--fixed-buffers=on and --postcopy exclude each other: give one");
        }
        if (values.text("io-poll") == "on") {
            return usage_error("--fixed-buffers=on and --io-poll=on exclude each other");
        }
    }
    OUTRIGGER_TRY(check_overlay_options(values));
    if (values.text("serial").value_or("").size() > kSerialBytes) {
        return usage_error("--serial takes at most 20 bytes");
    }
    if (const auto group = values.text("limit-group"); group && !is_group_name(*group)) {
        return usage_error("--limit-group takes letters, digits, '-', '_' and '.', at most 64");
    }
    OUTRIGGER_TRY(limits_of(values));
    return {};
}

IoEngineKind engine_of(std::string_view name) {
    return name == "uring"     ? IoEngineKind::kUring
           : name == "threads" ? IoEngineKind::kThreads
                               : IoEngineKind::kAuto;
}

std::optional<uint32_t> block_size_of(const OptionValues& values) {
    const std::optional<uint64_t> bytes = values.number("blk-size");
    return bytes ? std::optional(static_cast<uint32_t>(*bytes)) : std::nullopt;
}

/// Disks of a group have the same limits, or none of their own.

ErrorPolicy error_policy_of(std::string_view name) {
    return name == "stop"     ? ErrorPolicy::kStop
           : name == "enospc" ? ErrorPolicy::kStopOnFull
                              : ErrorPolicy::kReport;
}

bool fixes_memory(const OptionValues& values) {
    return values.text("fixed-buffers") == "on";
}

size_t polled_rings_of(const OptionValues& values) {
    return values.text("io-poll") == "on" ? values.number("num-queues").value_or(1) : 0;
}

/// The options of an image file that outlive the file itself.
ImageFileOptions file_options(const OptionValues& values) {
    return {.path = values.text("blk-file").value_or(""),
            .read_only = values.flag("read-only") || values.has("overlay"),
            .direct = values.text("cache") == "none",
            .lock = values.text("lock") != "off",
            .lock_in_use = values.text("lock") == "running",
            .block_bytes = block_size_of(values)};
}

/// Again: by a process that goes on with what one before it left.
enum class Opening : uint8_t { kFirst, kAgain };

Result<std::unique_ptr<Image>> open_base(const OptionValues& values,
                                         [[maybe_unused]] Opening opening) {
    if (const std::optional<uint64_t> size = values.number("null-size")) {
        return std::make_unique<NullImage>(
            NullImageOptions{.size_bytes = *size,
                             .block_bytes = block_size_of(values).value_or(kBlockBytesDefault),
                             .read_only = values.flag("read-only"),
                             .read_zeroes = values.flag("null-read-zeroes")});
    }
    if (const std::optional<uint64_t> size = values.number("blk-memory")) {
        return MemoryImage::create(
            {.size_bytes = *size,
             .block_bytes = block_size_of(values).value_or(kBlockBytesDefault),
             .read_only = values.flag("read-only"),
             .huge_pages = values.text("memory-huge-pages") != "off"});
    }
#ifdef OUTRIGGER_NBD
    if (const auto uri = values.text("blk-nbd")) {
        return NbdImage::open(
            {.uri = *uri,
             .read_only = values.flag("read-only") || values.has("overlay"),
             .timeout = std::chrono::seconds(values.number("nbd-timeout").value_or(1)),
             .block_bytes = block_size_of(values),
             .server_keeps = values.text("nbd-unflushed") == "kept",
             .waits_for_server = opening == Opening::kAgain});
    }
#endif
    const IoEngineKind engine = engine_of(values.text("io-engine").value_or("auto"));
    if (values.text("image-format") == "qcow2") {
        return Qcow2Image::open({.chain = {.path = values.text("blk-file").value_or(""),
                                           .backing_directory = values.text("allow-backing"),
                                           .lock = values.text("lock") != "off"},
                                 .engine = engine,
                                 .block_bytes = block_size_of(values)});
    }
    return open_raw_image({.file = file_options(values),
                           .engine = engine,
                           .fix_memory = fixes_memory(values),
                           .polled_rings = polled_rings_of(values)});
}

Result<std::unique_ptr<Image>> open_image(const OptionValues& values, Opening opening) {
    auto base = OUTRIGGER_TRY(open_base(values, opening));
    if (!values.has("overlay")) {
        return base;
    }
    std::string kind = values.text("image-format").value_or("raw");
    std::string path = values.text("blk-file").value_or("");
#ifdef OUTRIGGER_NBD
    if (const auto uri = values.text("blk-nbd")) {
        kind = "nbd";
        path = *uri;
    }
#endif
    return put_overlay_over(std::move(base),
                            {.kind = kind,
                             .path = path,
                             .engine = engine_of(values.text("io-engine").value_or("auto")),
                             .block_bytes = block_size_of(values)},
                            values);
}

Result<std::unique_ptr<BlkDevice>> open_blk_device(const OptionValues& values, Opening opening) {
    BlkDeviceOptions options;
    options.serial = values.text("serial").value_or("");
    options.shape.queue_count = static_cast<uint16_t>(values.number("num-queues").value_or(1));
    options.shape.segments_max = static_cast<uint32_t>(values.number("seg-max").value_or(1));
    options.shape.discard = values.text("discard") != "ignore";
    options.write_back_at_reset = values.text("cache") != "writethrough";
    options.error_policy = error_policy_of(values.text("on-error").value_or(""));
    options.limiter = OUTRIGGER_TRY(limiter_of(values));
    options.image_label = values.text("blk-file")
                              .value_or(values.text("blk-nbd").value_or(
                                  values.has("blk-memory") ? "memory" : "null"));
    if (const auto layer = values.text("overlay")) {
        options.image_label = *layer + " over " + options.image_label;
    }
    // A file that was passed open is a raw image, so it takes the place of one.
    if (values.has("blk-file") && values.text("image-format") == "raw" && !values.has("overlay")) {
        options.adopt_image = [given = file_options(values),
                               engine = engine_of(values.text("io-engine").value_or("auto")),
                               fix_memory = fixes_memory(values)](
                                  UniqueFd fd,
                                  const std::string& label,
                                  uint32_t block_bytes) -> Result<std::unique_ptr<Image>> {
            ImageFileOptions file = given;
            file.path = label;
            file.block_bytes = block_bytes;
            return std::make_unique<FileImage>(
                OUTRIGGER_TRY(ImageFile::adopt(std::move(fd), std::move(file))),
                engine,
                fix_memory);
        };
    }
    if (fixes_memory(values)) {
        raise_limit_of_fixed_memory();
    }
    auto image = OUTRIGGER_TRY(open_image(values, opening));
    if (image->properties().zoning.model != ZoneModel::kNone) {
        options.adopt_image = nullptr;  // the guest knows the zones of this one
    }
    return std::make_unique<BlkDevice>(std::move(image), options);
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    return OUTRIGGER_TRY(open_blk_device(values, Opening::kFirst));
}

Result<std::unique_ptr<Device>> create_kept_device(const OptionValues& values,
                                                   DeviceKeeper& keeper) {
    std::unique_ptr<BlkDevice> device = OUTRIGGER_TRY(
        open_blk_device(values, keeper.goes_on() ? Opening::kAgain : Opening::kFirst));
    OUTRIGGER_TRY(device->keep_memory(keeper));
    return device;
}

SandboxExtras blk_sandbox_extras(const OptionValues& values) {
    if (fixes_memory(values)) {
        return {.system_calls = fixed_memory_system_calls(),
                .uring_operations = fixed_memory_operations()};
    }
#ifdef OUTRIGGER_NBD
    if (const auto uri = values.text("blk-nbd")) {
        return nbd_sandbox_extras(*uri);
    }
#endif
    return {};
}

constexpr std::string_view kCapabilities[] = {"blk-file", "read-only"};

const DeviceProgram kProgram = {
    .name = "outrigger-blk",
    .type = "block",
    .summary =
        "A vhost-user back end that serves a virtio block device: a raw image file, a block device "
        "of the host, a qcow2 image for reading, the export of an NBD server, or memory",
    .options = kOptions,
    .capabilities = kCapabilities,
    .create_device = create_device,
    .create_kept_device = create_kept_device,
    .check_options = check_blk_options,
    .sandbox = blk_sandbox_needs(),
    .sandbox_extras = blk_sandbox_extras,
    .can_go_on = [](const OptionValues& values) { return !values.has("blk-memory"); },
};

}  // namespace

const DeviceProgram& blk_program() {
    return kProgram;
}

}  // namespace outrigger::blk
