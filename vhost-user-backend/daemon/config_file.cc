// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/config_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/shared_memory.h"
#include "vhost-user-backend/daemon/descriptor_store.h"

namespace outrigger {
namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
    const size_t begin = text.find_first_not_of(kBlanks);
    if (begin == std::string_view::npos) {
        return {};
    }
    return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::unexpected<Error> wrong(size_t line, const std::string& why) {
    return failure(Error{.message = "line " + std::to_string(line) + ": " + why});
}

bool is_plain(char each) {
    return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
           (each >= '0' && each <= '9') || each == '-';
}

Result<ConfigSection> parse_section(size_t line, std::string_view text) {
    if (!text.ends_with(']')) {
        return wrong(line, "a section is [NAME]");
    }
    const std::string_view name = trimmed(text.substr(1, text.size() - 2));
    if (name.empty() || name.size() > kSectionNameMax || !std::ranges::all_of(name, is_plain)) {
        return wrong(line,
                     "the name of a section has letters, digits and '-', at most " +
                         std::to_string(kSectionNameMax));
    }
    return ConfigSection{.line = line, .name = std::string(name)};
}

Result<ConfigItem> parse_item(size_t line, std::string_view text) {
    const size_t equals = text.find('=');
    const std::string_view key = trimmed(text.substr(0, equals));
    if (equals == std::string_view::npos || key.empty()) {
        return wrong(line, "this is neither KEY = VALUE nor [NAME]");
    }
    std::string_view value = trimmed(text.substr(equals + 1));
    if (value.starts_with('"')) {
        value.remove_prefix(1);
        if (value.empty() || value.find('"') != value.size() - 1) {
            return wrong(line, "a value in double quotes ends with the second of them");
        }
        value.remove_suffix(1);
    }
    if (value.empty()) {
        return wrong(line, std::string(key) + " has no value");
    }
    return ConfigItem{.line = line, .key = std::string(key), .value = std::string(value)};
}

Result<std::string> read_all(int fd, const std::string& what) {
    std::string text;
    std::array<char, 16 * 1024> piece{};
    while (true) {
        const ssize_t count = ::read(fd, piece.data(), piece.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return failure(error_from_errno("cannot read " + what));
        }
        if (count == 0) {
            return text;
        }
        text.append(piece.data(), static_cast<size_t>(count));
        if (text.size() > kConfigBytesMax) {
            return failure(Error{.message = what + " has more than " +
                                            std::to_string(kConfigBytesMax) + " bytes"});
        }
    }
}

Result<std::string> read_file(const std::string& path) {
    // A pipe that nobody writes to would be waited for here, for ever.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));

    struct stat status {};

    if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
        return failure(error_from_errno("cannot open " + path));
    }
    if (!S_ISREG(status.st_mode)) {
        return failure(Error{.message = path + " is no file"});
    }
    return read_all(fd.get(), path);
}

}  // namespace

Result<ConfigText> parse_config(std::string_view text) {
    ConfigText config;
    for (size_t line = 1; !text.empty(); ++line) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view here = trimmed(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
        if (here.empty() || here.starts_with('#') || here.starts_with(';')) {
            continue;
        }
        if (std::ranges::any_of(here, [](char each) {
                return (static_cast<unsigned char>(each) < ' ' && each != '\t') || each == '\x7f';
            })) {
            return wrong(line, "there is a control character");
        }
        if (here.starts_with('[')) {
            ConfigSection section = OUTRIGGER_TRY(parse_section(line, here));
            const auto same =
                std::ranges::find(config.sections, section.name, &ConfigSection::name);
            if (same != config.sections.end()) {
                return wrong(line,
                             "[" + section.name + "] is there twice, first in line " +
                                 std::to_string(same->line));
            }
            config.sections.push_back(std::move(section));
            continue;
        }
        auto& items = config.sections.empty() ? config.defaults : config.sections.back().items;
        items.push_back(OUTRIGGER_TRY(parse_item(line, here)));
    }
    return config;
}

Result<std::string> read_config(const std::string& path) {
    const char* const number = std::getenv(kConfigVariable);
    if (number == nullptr || std::getenv(DescriptorStore::kChannelVariable) == nullptr) {
        return read_file(path);
    }
    const std::string_view digits = number;
    int fd = -1;
    const auto [rest, error] = std::from_chars(digits.begin(), digits.end(), fd);
    if (error != std::errc() || rest != digits.end() || fd < 0) {
        return failure(Error{.message = std::string("$") + kConfigVariable + " is no descriptor"});
    }
    // Nobody that we start is meant.
    ::unsetenv(kConfigVariable);
    const UniqueFd copy(fd);
    return read_config_copy(copy.get());
}

Result<UniqueFd> copy_config(const std::string& path) {
    const std::string text = OUTRIGGER_TRY(read_file(path));
    // One byte more: there is no memory of no bytes.
    UniqueFd fd = OUTRIGGER_TRY(create_shared_memory("outrigger-config", text.size() + 1));
    size_t written = 0;
    while (written < text.size()) {
        const ssize_t count = ::pwrite(
            fd.get(), text.data() + written, text.size() - written, static_cast<off_t>(written));
        if (count < 0 && errno != EINTR) {
            return failure(error_from_errno("cannot copy " + path));
        }
        written += count > 0 ? static_cast<size_t>(count) : 0;
    }
    return fd;
}

Result<std::string> read_config_copy(int fd) {
    struct stat status {};

    if (::fstat(fd, &status) != 0 || status.st_size < 1 ||
        static_cast<uint64_t>(status.st_size) > kConfigBytesMax + 1) {
        return failure(Error{.message = "what the keeper has read of --config is not there"});
    }
    std::string text(static_cast<size_t>(status.st_size) - 1, '\0');
    size_t done = 0;
    while (done < text.size()) {
        // By its own place: others have the same open file.
        const ssize_t count =
            ::pread(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
        if (count == 0 || (count < 0 && errno != EINTR)) {
            return failure(error_from_errno("cannot read what the keeper has of --config"));
        }
        done += count > 0 ? static_cast<size_t>(count) : 0;
    }
    return text;
}

}  // namespace outrigger
