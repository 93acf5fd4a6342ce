// SPDX-License-Identifier: Apache-2.0
/// The command line of outrigger-bench: from argv to a plan that was checked.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "vhost-user-backend/base/result.h"
#include "vhost-user-backend/daemon/option_table.h"

namespace outrigger::bench {

enum class WorkloadKind : uint8_t { kBlk, kRng, kVsock, kFs, kConsole, kNet };

/// What is asked for.
enum class Access : uint8_t {
    kRead,
    kWrite,
    kRandRead,
    kRandWrite,
    kRandRw,
    kFlush,
    kToHost,     ///< bytes from the guest to the host
    kToGuest,    ///< and the other way
    kRoundTrip,  ///< from the guest to the host and back, one at a time
    kStalled,    ///< bytes from the guest that nobody reads
    kEcho,       ///< frames from the guest that the back end sends back
    kGetattr,
    kLookup,
    kStat,    ///< LOOKUP and GETATTR
    kCreate,  ///< CREATE, WRITE, FLUSH, RELEASE, UNLINK and FORGET
    kReadDirectory,
};

/// What the driver says of a disk's write cache, where it may.
enum class WriteCache : uint8_t { kAsItIs, kWriteback, kWritethrough };

enum class BenchAction : uint8_t { kMeasure, kCalibrate, kHelp, kVersion, kManPage };

/// A back end to measure.
struct Target {
    std::string socket{};
    std::optional<pid_t> pid{};
    std::string command{};     ///< starts it; empty: it runs
    std::optional<int> cpu{};  ///< where what is started runs
    std::string host_path{};   ///< where the host's programs find it
};

struct BenchPlan {
    BenchAction action = BenchAction::kMeasure;
    WorkloadKind workload = WorkloadKind::kBlk;
    Target a{};
    std::optional<Target> b{};

    Access access = Access::kRandRead;
    uint32_t connections = 1;
    std::optional<uint32_t> port{};  ///< of a console; nullopt: it has no numbers
    uint64_t bytes_per_second = 0;   ///< that the guest sends; 0: as many as it can
    uint32_t files = 1000;           ///< of a share
    bool direct = false;             ///< O_DIRECT, of a share's files
    uint32_t read_percent = 50;      ///< of kRandRw
    uint32_t flush_every = 0;        ///< a flush in place of each so-manieth request; 0: none
    uint64_t area_bytes = 0;         ///< how much of the disk is used; 0: as much as there is
    uint32_t block_bytes = 4096;
    WriteCache write_cache = WriteCache::kAsItIs;

    uint32_t depth = 32;  ///< requests in flight, in each queue
    uint16_t queues = 1;
    uint16_t ring_size = 0;   ///< 0: with room for `depth` requests
    bool packed = false;      ///< where the back end has it
    bool indirect = false;    ///< where the back end has it
    bool event_idx = true;    ///< where the back end has it
    bool spin = true;         ///< look for completions; else sleep until the back end calls
    std::vector<int> cpus{};  ///< where the driver's threads run; empty: wherever

    uint32_t rounds = 20;
    std::chrono::milliseconds round_time{250};
    std::chrono::milliseconds patience{10'000};
    bool system_calls = false;
    std::optional<int> device_cpu{};  ///< of kCalibrate: where the device's own thread runs
    bool verify = false;
    std::string verify_state{};  ///< path; empty: none
    bool json = false;
    std::string man_page_template{};  ///< path, for kManPage
};

/// All options, in the order of --help.
[[nodiscard]] std::span<const OptionSpec> bench_options();

[[nodiscard]] std::string_view name_of(WorkloadKind workload);
[[nodiscard]] std::string_view name_of(Access access);
/// Nullopt: nothing has that name.
[[nodiscard]] std::optional<WorkloadKind> workload_named(std::string_view name);
[[nodiscard]] std::optional<Access> access_named(std::string_view name);
[[nodiscard]] std::optional<WriteCache> write_cache_named(std::string_view name);

/// By WorkloadKind.
[[nodiscard]] std::span<const std::string_view> workload_names();

/// Streams of bytes between guest and host, not requests and answers.
[[nodiscard]] bool has_streams(WorkloadKind workload);

/// Packets of sockets that carry no data and may be in flight beside those of --depth.
inline constexpr uint32_t kControlPacketsMax = 32;

/// Bytes of one request that are not said.
inline constexpr uint32_t kBlockBytesDefault = 4096;
/// A frame of Ethernet at an MTU of 1500.
inline constexpr uint32_t kFrameBytesDefault = 1514;

/// Names and attributes of a share, not the data of files.
[[nodiscard]] bool asks_for_names(Access access);

/// Ring descriptors that a request takes at most, of the ring that needs the most.
[[nodiscard]] uint32_t descriptors_per_request(const BenchPlan& plan);

/// `arguments` is argv without the program. Every error is one of usage: exit status 2.
[[nodiscard]] Result<BenchPlan> parse_bench_options(std::span<const char* const> arguments);

/// --help.
[[nodiscard]] std::string bench_help_text();

/// The man page: `page` is its hand-written part, with lines @HEAD@, @OPTIONS@ and @TAIL@.
[[nodiscard]] Result<std::string> bench_man_page(std::string_view page);

}  // namespace outrigger::bench
