// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/bench_options.h"

#include <initializer_list>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

Result<BenchPlan> parse(std::initializer_list<const char*> arguments) {
    return parse_bench_options(std::vector<const char*>(arguments));
}

/// The words of the refusal; empty when there is none.
std::string refusal(std::initializer_list<const char*> arguments) {
    const auto plan = parse(arguments);
    return plan ? std::string() : plan.error().message;
}

TEST(BenchOptions, TheUsualCommandIsUnderstood) {
    const auto plan = parse({"blk",
                             "--a",
                             "a.sock",
                             "--b",
                             "b.sock",
                             "--rw",
                             "randread",
                             "--bs",
                             "4k",
                             "--depth",
                             "32",
                             "--queues",
                             "1",
                             "--rounds",
                             "20",
                             "--json"});

    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_EQ(plan->action, BenchAction::kMeasure);
    EXPECT_EQ(plan->workload, WorkloadKind::kBlk);
    EXPECT_EQ(plan->a.socket, "a.sock");
    ASSERT_TRUE(plan->b);
    EXPECT_EQ(plan->b->socket, "b.sock");
    EXPECT_EQ(plan->access, Access::kRandRead);
    EXPECT_EQ(plan->block_bytes, 4096U);
    EXPECT_EQ(plan->depth, 32U);
    EXPECT_EQ(plan->queues, 1U);
    EXPECT_EQ(plan->rounds, 20U);
    EXPECT_TRUE(plan->json);
    EXPECT_TRUE(plan->spin);
    EXPECT_FALSE(plan->packed);
}

TEST(BenchOptions, ValuesMayFollowAnEqualsSign) {
    const auto plan = parse(
        {"rng", "--a=x=y.sock", "--bs=64", "--ring=packed", "--completion=eventfd", "--a-pid=7"});

    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_EQ(plan->workload, WorkloadKind::kRng);
    EXPECT_EQ(plan->a.socket, "x=y.sock");
    EXPECT_EQ(plan->a.pid, 7);
    EXPECT_FALSE(plan->b);
    EXPECT_TRUE(plan->packed);
    EXPECT_FALSE(plan->spin);
}

TEST(BenchOptions, EachAccessHasItsName) {
    for (const Access access : {Access::kRead,
                                Access::kWrite,
                                Access::kRandRead,
                                Access::kRandWrite,
                                Access::kRandRw,
                                Access::kFlush}) {
        const auto plan = parse({"blk", "--a=s", "--rw", std::string(name_of(access)).c_str()});
        ASSERT_TRUE(plan);
        EXPECT_EQ(plan->access, access);
    }
    for (const Access access :
         {Access::kToHost, Access::kToGuest, Access::kRoundTrip, Access::kStalled}) {
        const auto plan =
            parse({"console", "--a=s", "--a-host=h", "--rw", std::string(name_of(access)).c_str()});
        ASSERT_TRUE(plan);
        EXPECT_EQ(plan->access, access);
    }
    for (const Access access : {Access::kGetattr,
                                Access::kLookup,
                                Access::kStat,
                                Access::kCreate,
                                Access::kReadDirectory}) {
        const auto plan = parse({"fs", "--a=s", "--rw", std::string(name_of(access)).c_str()});
        ASSERT_TRUE(plan);
        EXPECT_EQ(plan->access, access);
    }
}

TEST(BenchOptions, RingHasRoomForTheDepth) {
    EXPECT_EQ(parse({"blk", "--a=s", "--depth=1"})->ring_size, 256);
    EXPECT_EQ(parse({"blk", "--a=s", "--depth=85"})->ring_size, 256);
    EXPECT_EQ(parse({"blk", "--a=s", "--depth=86"})->ring_size, 512);
    EXPECT_EQ(parse({"blk", "--a=s", "--depth=8192"})->ring_size, 32768);
    EXPECT_EQ(parse({"rng", "--a=s", "--depth=257"})->ring_size, 512);
    EXPECT_EQ(parse({"fs", "--a=s", "--depth=43"})->ring_size, 512);
    // And 32 packets without data.
    EXPECT_EQ(parse({"vsock", "--a=s", "--a-host=h", "--depth=112"})->ring_size, 256);
    EXPECT_EQ(parse({"vsock", "--a=s", "--a-host=h", "--depth=113"})->ring_size, 512);
    EXPECT_EQ(parse({"net", "--a=s", "--a-host=h", "--depth=129"})->ring_size, 512);
}

TEST(BenchOptions, DepthThatNoRingHasRoomForIsRefused) {
    EXPECT_EQ(parse({"fs", "--a=s", "--depth=5461"})->ring_size, 32768);
    EXPECT_EQ(refusal({"fs", "--a=s", "--depth=5462"}),
              "--depth of fs is at most 5461: a ring has no room for more");
}

TEST(BenchOptions, RingThatIsTooSmallIsRefused) {
    EXPECT_TRUE(parse({"blk", "--a=s", "--depth=10", "--ring-size=32"}));
    EXPECT_EQ(refusal({"blk", "--a=s", "--depth=11", "--ring-size=32"}),
              "--ring-size must be at least 33: a request takes up to 3 descriptors");
    EXPECT_EQ(refusal({"blk", "--a=s", "--ring-size=100"}), "--ring-size is a power of two");
    EXPECT_NE(refusal({"blk", "--a=s", "--ring-size=65536"}), "");
}

TEST(BenchOptions, WithoutAWorkloadThereIsNothingToDo) {
    EXPECT_NE(refusal({}), "");
    EXPECT_NE(refusal({"--a=s"}), "");
    EXPECT_NE(refusal({"gpu", "--a=s"}), "");
    EXPECT_NE(refusal({"blk"}), "");
    EXPECT_NE(refusal({""}), "");
}

TEST(BenchOptions, StrayArgumentsAreRefused) {
    EXPECT_NE(refusal({"blk", "--a=s", "more"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--c=s"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "-b=s"}), "");
    EXPECT_NE(refusal({"blk", "--a"}), "");
    EXPECT_NE(refusal({"blk", "--"}), "");
    EXPECT_NE(refusal({"blk", "--="}), "");
}

TEST(BenchOptions, ValuesOutOfRangeAreRefused) {
    EXPECT_NE(refusal({"blk", "--a=s", "--depth=0"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--depth=8193"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--queues=0"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--rwmixread=101"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--bs=0"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--bs=100"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--rw=trim"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--rounds=0"}), "");
}

TEST(BenchOptions, WhatIsOfOneDeviceIsRefusedForAnother) {
    EXPECT_EQ(refusal({"rng", "--a=s", "--verify"}), "--verify is not of rng");
    EXPECT_EQ(refusal({"rng", "--a=s", "--rw=read"}), "--rw is not of rng");
    EXPECT_EQ(refusal({"rng", "--a=s", "--queues=2"}), "--queues above 1 is not of rng");
    EXPECT_EQ(refusal({"blk", "--a=s", "--connections=2"}), "--connections is not of blk");
    EXPECT_EQ(refusal({"blk", "--a=s", "--port=1"}), "--port is not of blk");
    EXPECT_EQ(refusal({"blk", "--a=s", "--files=2"}), "--files is not of blk");
    EXPECT_EQ(refusal({"vsock", "--a=s", "--a-host=h", "--calibrate"}),
              "--calibrate is not of vsock");
    EXPECT_EQ(refusal({"vsock", "--a=s", "--a-host=h", "--size=1M"}), "--size is not of vsock");
    EXPECT_EQ(refusal({"fs", "--a=s", "--flush-every=2"}), "--flush-every is not of fs");
    EXPECT_EQ(refusal({"fs", "--a=s", "--a-host=h"}), "--a-host is not of fs");
    EXPECT_EQ(refusal({"console", "--a=s", "--a-host=h", "--connections=2"}),
              "--connections is not of console");
    EXPECT_EQ(refusal({"net", "--a=s", "--a-host=h", "--port=2"}), "--port is not of net");
}

TEST(BenchOptions, EachDeviceHasItsAccesses) {
    EXPECT_EQ(refusal({"blk", "--a=s", "--rw=to-host"}), "--rw=to-host is not of blk");
    EXPECT_EQ(refusal({"vsock", "--a=s", "--a-host=h", "--rw=read"}), "--rw=read is not of vsock");
    EXPECT_EQ(refusal({"vsock", "--a=s", "--a-host=h", "--rw=stalled"}),
              "--rw=stalled is not of vsock");
    EXPECT_EQ(refusal({"fs", "--a=s", "--rw=flush"}), "--rw=flush is not of fs");
    EXPECT_EQ(refusal({"console", "--a=s", "--a-host=h", "--rw=echo"}),
              "--rw=echo is not of console");
    EXPECT_EQ(parse({"vsock", "--a=s", "--a-host=h"})->access, Access::kToHost);
    EXPECT_EQ(parse({"console", "--a=s", "--a-host=h"})->access, Access::kToHost);
    EXPECT_EQ(parse({"fs", "--a=s"})->access, Access::kRandRead);
    EXPECT_EQ(parse({"fs", "--a=s", "--rw=readdirplus"})->access, Access::kReadDirectory);
}

TEST(BenchOptions, WhatChangesNothingIsRefused) {
    EXPECT_EQ(refusal({"blk", "--a=s", "--rwmixread=3"}),
              "--rwmixread changes nothing of --rw=randread");
    EXPECT_TRUE(parse({"blk", "--a=s", "--rwmixread=3", "--rw=randrw"}));
    EXPECT_NE(refusal({"blk", "--a=s", "--flush-every=3", "--rw=flush"}), "");
    EXPECT_NE(refusal({"fs", "--a=s", "--files=3"}), "");
    EXPECT_TRUE(parse({"fs", "--a=s", "--files=3", "--rw=create"}));
    for (const char* const access : {"--rw=getattr", "--rw=lookup", "--rw=stat"}) {
        EXPECT_NE(refusal({"fs", "--a=s", access, "--bs=8k"}), "");
    }
    for (const char* const access : {"--rw=getattr", "--rw=create", "--rw=readdirplus"}) {
        EXPECT_NE(refusal({"fs", "--a=s", access, "--size=1M"}), "");
        EXPECT_NE(refusal({"fs", "--a=s", access, "--direct"}), "");
    }
    EXPECT_TRUE(parse({"fs", "--a=s", "--rw=readdirplus", "--bs=8k"}));
    EXPECT_NE(refusal({"vsock", "--a=s", "--a-host=h", "--rw=to-guest", "--depth=3"}), "");
    for (const char* const access : {"--rw=to-guest", "--rw=round-trip"}) {
        EXPECT_NE(refusal({"console", "--a=s", "--a-host=h", access, "--rate=1M"}), "");
    }
    EXPECT_NE(refusal({"net", "--a=s", "--a-host=h", "--rw=echo"}), "");
    EXPECT_NE(refusal({"net", "--a=s", "--b=t", "--b-host=h", "--rw=echo"}), "");
}

TEST(BenchOptions, WhatHoldsNothingCannotBeVerified) {
    EXPECT_EQ(refusal({"fs", "--a=s", "--rw=create", "--verify"}),
              "--verify changes nothing of --rw=create");
    EXPECT_NE(refusal({"console", "--a=s", "--rw=stalled", "--verify"}), "");
    EXPECT_TRUE(parse({"net", "--a=s", "--rw=echo", "--verify"}));
}

TEST(BenchOptions, BlocksOfANetworkAreFrames) {
    EXPECT_EQ(parse({"net", "--a=s", "--a-host=h"})->block_bytes, 1514U);
    EXPECT_EQ(parse({"console", "--a=s", "--a-host=h"})->block_bytes, 4096U);
    EXPECT_EQ(parse({"net", "--a=s", "--a-host=h", "--bs=60"})->block_bytes, 60U);
    EXPECT_TRUE(parse({"net", "--a=s", "--a-host=h", "--bs=65535"}));
    EXPECT_EQ(refusal({"net", "--a=s", "--a-host=h", "--bs=59"}),
              "--bs of net is a frame's: 60 to 65535");
    EXPECT_NE(refusal({"net", "--a=s", "--a-host=h", "--bs=65536"}), "");
    EXPECT_NE(refusal({"net", "--a=s"}), "");
    // Nobody is there.
    EXPECT_TRUE(parse({"net", "--a=s", "--rw=stalled"}));
    EXPECT_TRUE(parse({"net", "--a=s", "--rw=echo"}));
}

TEST(BenchOptions, StreamsHaveTwoSides) {
    const auto plan = parse(
        {"vsock", "--a=s", "--b=t", "--a-host=h", "--b-host=i", "--connections=16", "--bs=1"});

    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_EQ(plan->a.host_path, "h");
    EXPECT_EQ(plan->b->host_path, "i");
    EXPECT_EQ(plan->connections, 16U);
    const std::string missing = "the host's side is missing: --a-host, and --b-host with --b";
    EXPECT_EQ(refusal({"vsock", "--a=s"}), missing);
    EXPECT_EQ(refusal({"vsock", "--a=s", "--b=t", "--a-host=h"}), missing);
    EXPECT_EQ(refusal({"console", "--a=s"}), missing);
    EXPECT_EQ(refusal({"vsock", "--a=s", "--a-host=h", "--b-host=i"}), "--b-host needs --b");
    // Nobody looks.
    EXPECT_TRUE(parse({"console", "--a=s", "--rw=stalled"}));
}

TEST(BenchOptions, BlocksOfStreamsAreBounded) {
    EXPECT_TRUE(parse({"vsock", "--a=s", "--a-host=h", "--bs=1M"}));
    EXPECT_EQ(refusal({"vsock", "--a=s", "--a-host=h", "--bs=1025K"}),
              "--bs of vsock to-host is at most 1048576");
    EXPECT_TRUE(parse({"console", "--a=s", "--a-host=h", "--bs=64K", "--rw=round-trip"}));
    EXPECT_EQ(refusal({"console", "--a=s", "--a-host=h", "--bs=65K", "--rw=round-trip"}),
              "--bs of console round-trip is at most 65536");
}

TEST(BenchOptions, ConsoleWithoutANumberHasOnePort) {
    const auto numbered = parse({"console", "--a=s", "--a-host=h", "--port=0", "--rate=100M"});

    ASSERT_TRUE(numbered) << numbered.error().message;
    EXPECT_EQ(numbered->port, 0U);
    EXPECT_EQ(numbered->bytes_per_second, uint64_t{100} << 20);
    EXPECT_FALSE(parse({"console", "--a=s", "--a-host=h"})->port);
    EXPECT_NE(refusal({"console", "--a=s", "--a-host=h", "--port=31"}), "");
}

TEST(BenchOptions, OptionsOfBNeedB) {
    EXPECT_EQ(refusal({"blk", "--a=s", "--b-pid=1"}), "--b-pid needs --b");
    EXPECT_EQ(refusal({"blk", "--a=s", "--b-command=x"}), "--b-command needs --b");
    EXPECT_TRUE(parse({"blk", "--a=s", "--b=t", "--b-command=x", "--b-cpu=3"}));
}

TEST(BenchOptions, ProcessorOfABackEndNeedsItsCommand) {
    EXPECT_NE(refusal({"blk", "--a=s", "--a-cpu=0"}), "");
    EXPECT_TRUE(parse({"blk", "--a=s", "--a-cpu=0", "--a-command=x"}));
}

TEST(BenchOptions, VerifyStateIsOfOneBackEndThatIsVerified) {
    EXPECT_NE(refusal({"blk", "--a=s", "--verify-state=f"}), "");
    EXPECT_NE(refusal({"blk", "--a=s", "--b=t", "--verify", "--verify-state=f"}), "");
    EXPECT_TRUE(parse({"blk", "--a=s", "--verify", "--verify-state=f"}));
}

TEST(BenchOptions, ProcessorsAreAList) {
    EXPECT_EQ(parse({"blk", "--a=s", "--cpus=1,3,5"})->cpus, (std::vector{1, 3, 5}));
    EXPECT_EQ(parse({"blk", "--a=s", "--cpus=0"})->cpus, std::vector{0});
    for (const char* const bad : {"--cpus=",
                                  "--cpus=,",
                                  "--cpus=1,",
                                  "--cpus=,1",
                                  "--cpus=1;2",
                                  "--cpus=-1",
                                  "--cpus=1024",
                                  "--cpus=a"}) {
        EXPECT_NE(refusal({"blk", "--a=s", bad}), "") << bad;
    }
}

TEST(BenchOptions, CalibrationNeedsNoBackEnd) {
    const auto plan = parse({"blk", "--calibrate"});

    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->action, BenchAction::kCalibrate);
}

TEST(BenchOptions, CalibrationVerifiesNothing) {
    EXPECT_EQ(refusal({"blk", "--calibrate", "--verify"}),
              "--verify needs a back end: leave --calibrate out");
}

TEST(BenchOptions, AreaHasRoomForABlock) {
    EXPECT_EQ(refusal({"blk", "--a=s", "--size=512"}), "--size has no room for one block of --bs");
    EXPECT_EQ(refusal({"blk", "--calibrate", "--size=8191", "--bs=8k"}),
              "--size has no room for one block of --bs");
    EXPECT_TRUE(parse({"blk", "--a=s", "--size=512", "--bs=512"}));
    EXPECT_TRUE(parse({"blk", "--a=s", "--size=0"}));
}

TEST(BenchOptions, ProcessorOfTheDeviceIsOfCalibration) {
    EXPECT_EQ(parse({"blk", "--calibrate", "--device-cpu=3"})->device_cpu, 3);
    EXPECT_EQ(refusal({"blk", "--a=s", "--device-cpu=3"}), "--device-cpu needs --calibrate");
}

TEST(BenchOptions, HelpNeedsNoWorkload) {
    EXPECT_EQ(parse({"--help"})->action, BenchAction::kHelp);
    EXPECT_EQ(parse({"blk", "--help"})->action, BenchAction::kHelp);
    EXPECT_EQ(parse({"--version"})->action, BenchAction::kVersion);
}

TEST(BenchOptions, HelpShowsOptionsOfOneLetter) {
    const std::string help = bench_help_text();

    EXPECT_NE(help.find("\n  --a=SOCKET\n"), std::string::npos);
    EXPECT_NE(help.find("\n  --json\n"), std::string::npos);
    EXPECT_EQ(help.find("print-man-page"), std::string::npos);
}

}  // namespace
}  // namespace outrigger::bench
