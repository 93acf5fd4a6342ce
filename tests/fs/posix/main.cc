// SPDX-License-Identifier: Apache-2.0
/// fs-posix: what POSIX and Linux say of files, asked of a directory, and of another one beside it.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <fnmatch.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fs/posix/trial.h"

namespace outrigger::posix {
namespace {

constexpr std::string_view kUsage =
    "usage: fs-posix --subject=DIR [--oracle=DIR | --expected=FILE | --record=FILE] [OPTION]...\n"
    "Runs each case in DIR and compares what it saw with what it sees in the oracle, a directory "
    "of\n"
    "the host, or with a record of that. Prints the Test Anything Protocol, differences as "
    "comments.\n"
    "\n"
    "  --subject=DIR    where the cases run; made empty directories below it stay there on a "
    "failure\n"
    "  --oracle=DIR     where they run as well, to be compared with\n"
    "  --expected=FILE  what --record wrote, to be compared with\n"
    "  --record=FILE    writes what was seen\n"
    "  --cases=PATTERN  only cases whose name matches, as in 'rename.*'; may be there more than "
    "once\n"
    "  --known=FILE     lines 'NAME: REASON': differences that are known, and reported as "
    "skipped;\n"
    "                   may be there more than once\n"
    "  --seconds=N      for one case, before it is killed; default 60\n"
    "  --list           prints the names of the cases\n"
    "  --help           this text\n"
    "\n"
    "Exit status: 0 when nothing differs, 1 when not, 2 for a wrong option.\n";

struct Settings {
    std::string subject;
    std::string oracle;
    std::string expected;
    std::string record;
    std::vector<std::string> known;
    std::vector<std::string> patterns;
    unsigned seconds = 60;
};

/// What a case saw, by its name.
using Transcripts = std::map<std::string, std::string>;

int remove_one(const char* path,
               const struct stat* /*status*/,
               int /*kind*/,
               struct FTW* /*where*/) {
    ::remove(path);
    return 0;
}

void remove_tree(const std::string& path) {
    ::nftw(path.c_str(), remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

std::string read_log(int fd) {
    return read_all(fd);
}

/// Runs one case in a fresh directory below `root` and in a process of its own.
std::string transcript_of(const Case& one, const std::string& root, unsigned seconds) {
    const std::string directory = root + "/" + one.name();
    remove_tree(directory);
    const int log_fd = ::memfd_create("transcript", 0);
    ::fcntl(log_fd, F_SETFL, O_APPEND);
    const pid_t child = ::fork();
    if (child == 0) {
        ::setpgid(0, 0);
        // Nothing of the caller's matters.
        ::umask(022);
        const Trial trial(log_fd);
        if (::mkdir(directory.c_str(), 0777) != 0 || ::chmod(directory.c_str(), 0777) != 0 ||
            ::chdir(directory.c_str()) != 0) {
            trial.did("the case's directory", -1);
            ::_exit(1);
        }
        ::alarm(seconds);
        Trial writable(log_fd);
        one.run(writable);
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    // Children of a case that was killed.
    ::kill(-child, SIGKILL);
    std::string transcript = read_log(log_fd);
    ::close(log_fd);
    if (WIFSIGNALED(status)) {
        transcript += "ended by signal " + std::to_string(WTERMSIG(status)) + "\n";
    }
    remove_tree(directory);
    return transcript;
}

bool is_wanted(const Case& one, const Settings& settings) {
    return settings.patterns.empty() ||
           std::ranges::any_of(settings.patterns, [&](const std::string& pattern) {
               return ::fnmatch(pattern.c_str(), one.name().c_str(), 0) == 0;
           });
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
        lines.push_back(line);
    }
    return lines;
}

/// A record is lines: "== name", and each line of the transcript behind a blank.
Transcripts read_record(const std::string& path) {
    Transcripts out;
    std::ifstream in(path);
    std::string name;
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with("== ")) {
            name = line.substr(3);
            out[name];
        } else if (!line.empty()) {
            out[name] += line.substr(1) + "\n";
        }
    }
    return out;
}

void read_known(const std::string& path, std::map<std::string, std::string>& out) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        const size_t colon = line.find(": ");
        if (!line.starts_with("#") && colon != std::string::npos) {
            out[line.substr(0, colon)] = line.substr(colon + 2);
        }
    }
}

/// Lines that are in one and not in the other, by their places.
void print_differences(const std::string& expected, const std::string& seen) {
    const auto left = lines_of(expected);
    const auto right = lines_of(seen);
    for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
        const std::string& host = i < left.size() ? left[i] : "(nothing)";
        const std::string& share = i < right.size() ? right[i] : "(nothing)";
        if (host != share) {
            std::printf("#   host:  %s\n#   share: %s\n", host.c_str(), share.c_str());
        }
    }
}

class Run final {
  public:
    explicit Run(const Settings& settings) : settings_(settings) {
        struct stat status {};

        if (::stat(settings.subject.c_str(), &status) == 0) {
            device_ = status.st_dev;
        }
        if (!settings.expected.empty()) {
            expected_ = read_record(settings.expected);
        }
        for (const std::string& path : settings.known) {
            read_known(path, known_);
        }
    }

    int all() {
        std::ofstream record;
        if (!settings_.record.empty()) {
            record.open(settings_.record);
        }
        for (const Case* const one : Case::all()) {
            if (!is_wanted(*one, settings_)) {
                continue;
            }
            const std::string seen = transcript_of(*one, settings_.subject, settings_.seconds) +
                                     (is_there(settings_.subject) ? "" : "the share is gone\n");
            if (record.is_open()) {
                record << "== " << one->name() << "\n";
                for (const std::string& line : lines_of(seen)) {
                    record << " " << line << "\n";
                }
            } else {
                judge(*one, seen);
            }
        }
        if (record.is_open()) {
            record.close();
            return record.good() ? 0 : 1;
        }
        std::printf("1..%d\n# %d same, %d different, %d skipped\n", number_, same_, bad_, skipped_);
        return bad_ == 0 && same_ > 0 ? 0 : 1;
    }

  private:
    /// A mount that broke down leaves a directory of the host behind.
    [[nodiscard]] bool is_there(const std::string& path) const {
        struct stat status {};

        return ::stat(path.c_str(), &status) == 0 && status.st_dev == device_;
    }

    std::string expected_of(const Case& one) {
        if (!settings_.oracle.empty()) {
            return transcript_of(one, settings_.oracle, settings_.seconds);
        }
        const auto found = expected_.find(one.name());
        return found != expected_.end() ? found->second : "the record does not have this case\n";
    }

    void judge(const Case& one, const std::string& seen) {
        const std::string expected = expected_of(one);
        const auto known = known_.find(one.name());
        ++number_;
        const size_t skip = seen.find("skipped: ");
        if (seen != expected && known == known_.end()) {
            ++bad_;
            std::printf("not ok %d %s\n", number_, one.name().c_str());
            print_differences(expected, seen);
        } else if (seen != expected) {
            ++skipped_;
            std::printf("ok %d %s # SKIP %s\n", number_, one.name().c_str(), known->second.c_str());
        } else if (skip != std::string::npos) {
            ++skipped_;
            std::printf("ok %d %s # SKIP %s\n",
                        number_,
                        one.name().c_str(),
                        seen.substr(skip + 9, seen.find('\n', skip) - skip - 9).c_str());
        } else {
            ++same_;
            std::printf("ok %d %s\n", number_, one.name().c_str());
        }
        std::fflush(stdout);
    }

    Settings settings_;
    Transcripts expected_;
    std::map<std::string, std::string> known_;
    dev_t device_ = 0;
    int number_ = 0;
    int same_ = 0;
    int bad_ = 0;
    int skipped_ = 0;
};

bool parse(std::string_view argument, Settings& settings) {
    const auto take = [&](std::string_view name, std::string& to) {
        if (!argument.starts_with(name)) {
            return false;
        }
        to = argument.substr(name.size());
        return !to.empty();
    };
    std::string text;
    if (take("--cases=", text)) {
        settings.patterns.push_back(text);
        return true;
    }
    if (take("--known=", text)) {
        settings.known.push_back(text);
        return true;
    }
    if (take("--seconds=", text)) {
        settings.seconds = static_cast<unsigned>(std::strtoul(text.c_str(), nullptr, 10));
        return settings.seconds > 0;
    }
    return take("--subject=", settings.subject) || take("--oracle=", settings.oracle) ||
           take("--expected=", settings.expected) || take("--record=", settings.record);
}

int suite_main(int argc, char** argv) {
    Settings settings;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        if (argument == "--help") {
            std::fputs(kUsage.data(), stdout);
            return 0;
        }
        if (argument == "--list") {
            for (const Case* const one : Case::all()) {
                std::printf("%s\n", one->name().c_str());
            }
            return 0;
        }
        if (!parse(argument, settings)) {
            std::fprintf(stderr, "fs-posix: cannot use '%s'; see --help\n", argv[i]);
            return 2;
        }
    }
    const int ways =
        !settings.oracle.empty() + !settings.expected.empty() + !settings.record.empty();
    if (settings.subject.empty() || ways != 1) {
        std::fprintf(stderr,
                     "fs-posix: a subject and one of oracle, expected, record; see --help\n");
        return 2;
    }
    return Run(settings).all();
}

}  // namespace
}  // namespace outrigger::posix

int main(int argc, char** argv) {
    return outrigger::posix::suite_main(argc, argv);
}
