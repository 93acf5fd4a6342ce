// SPDX-License-Identifier: Apache-2.0
/// fs-random: does the same to a share and to a directory of the host, and compares.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <sys/random.h>
#include <sys/stat.h>

#include "tests/fs/random/operations.h"
#include "tests/fs/random/tree_snapshot.h"
#include "tests/fs/random/twin.h"

namespace outrigger::randomops {
namespace {

constexpr std::string_view kUsage =
    "usage: fs-random --subject=DIR --oracle=DIR [OPTION]...\n"
    "Random operations on a share and on a directory of the host: what each returns must be the "
    "same,\n"
    "and from time to time everything that is there. Both directories are empty at the start.\n"
    "\n"
    "  --backing=DIR  what the share shows, on the host: must look the same as well\n"
    "  --steps=N      default: OUTRIGGER_FS_RANDOM_STEPS, or 20000\n"
    "  --seed=N       default: another one each time; printed\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0 when nothing differed, 1 when something did, 2 for a wrong option.\n";

// Trees grow with the steps, so a run of many looks at all of them not more than a hundred times.
constexpr uint64_t kStepsBetweenSnapshotsMin = 2000;
constexpr uint64_t kSnapshots = 100;

struct Settings {
    std::string subject;
    std::string oracle;
    std::string backing;
    uint64_t steps = 20'000;
    uint64_t seed = 0;
};

/// Empty when all trees look the same.
std::string difference_of_trees(const Settings& settings) {
    const auto oracle = snapshot_of(settings.oracle);
    if (std::string found = first_difference(snapshot_of(settings.subject), oracle);
        !found.empty()) {
        return "share | host: " + found;
    }
    if (settings.backing.empty()) {
        return {};
    }
    const std::string found = first_difference(snapshot_of(settings.backing), oracle);
    return found.empty() ? found : "behind the share | host: " + found;
}

int run(const Settings& settings) {
    std::printf("seed %llu, %llu steps\n",
                static_cast<unsigned long long>(settings.seed),
                static_cast<unsigned long long>(settings.steps));
    std::fflush(stdout);
    Twin twin(settings.subject, settings.oracle);
    Dice dice(settings.seed);
    const uint64_t between = std::max(kStepsBetweenSnapshotsMin, settings.steps / kSnapshots);
    std::string trouble;
    uint64_t done = 0;
    for (; done < settings.steps && trouble.empty(); ++done) {
        if (!step(twin, dice)) {
            trouble = twin.mismatch();
        } else if (done % between == between - 1) {
            trouble = difference_of_trees(settings);
        }
    }
    if (trouble.empty()) {
        trouble = difference_of_trees(settings);
    }
    if (trouble.empty()) {
        std::printf("the same after %llu steps\n", static_cast<unsigned long long>(done));
        return EXIT_SUCCESS;
    }
    std::printf("what came before, on the host:\n");
    for (const std::string& line : twin.history()) {
        std::printf("  %s\n", line.c_str());
    }
    std::printf("step %llu of seed %llu: %s\n",
                static_cast<unsigned long long>(done),
                static_cast<unsigned long long>(settings.seed),
                trouble.c_str());
    return EXIT_FAILURE;
}

bool parse(std::string_view argument, Settings& settings) {
    const auto take = [&](std::string_view name, std::string& to) {
        if (!argument.starts_with(name)) {
            return false;
        }
        to = argument.substr(name.size());
        return !to.empty();
    };
    const auto take_number = [&](std::string_view name, uint64_t& to) {
        std::string text;
        if (!take(name, text)) {
            return false;
        }
        char* end = nullptr;
        to = std::strtoull(text.c_str(), &end, 10);
        return *end == '\0';
    };
    return take("--subject=", settings.subject) || take("--oracle=", settings.oracle) ||
           take("--backing=", settings.backing) || take_number("--steps=", settings.steps) ||
           take_number("--seed=", settings.seed);
}

int random_main(int argc, char** argv) {
    Settings settings;
    (void)!::getrandom(&settings.seed, 4, 0);
    if (const char* const steps = std::getenv("OUTRIGGER_FS_RANDOM_STEPS")) {
        settings.steps = std::strtoull(steps, nullptr, 10);
    }
    for (int i = 1; i < argc; ++i) {
        if (std::string_view(argv[i]) == "--help") {
            std::fputs(kUsage.data(), stdout);
            return EXIT_SUCCESS;
        }
        if (!parse(argv[i], settings)) {
            std::fprintf(stderr, "fs-random: cannot use '%s'; see --help\n", argv[i]);
            return 2;
        }
    }
    if (settings.subject.empty() || settings.oracle.empty()) {
        std::fprintf(stderr, "fs-random: a subject and an oracle must be there; see --help\n");
        return 2;
    }
    ::umask(022);
    return run(settings);
}

}  // namespace
}  // namespace outrigger::randomops

int main(int argc, char** argv) {
    return outrigger::randomops::random_main(argc, argv);
}
