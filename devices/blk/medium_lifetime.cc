// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/medium_lifetime.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <fmt/format.h>

namespace outrigger::blk {
namespace {

using Kind = LifetimeAttribute::Kind;

struct AttributeFile {
    const char* name;
    Kind kind;
};

/// The card of an eMMC (Linux since 4.2) and the controller of a UFS device (since 4.17), somewhere
/// above the disk in the tree of devices.
constexpr std::array<AttributeFile, 2> kMmcFiles{
    {{"pre_eol_info", Kind::kPreEndOfLife}, {"life_time", Kind::kEstimates}}};
constexpr std::array<AttributeFile, 3> kUfsFiles{
    {{"health_descriptor/eol_info", Kind::kPreEndOfLife},
     {"health_descriptor/life_time_estimation_a", Kind::kEstimateA},
     {"health_descriptor/life_time_estimation_b", Kind::kEstimateB}}};

/// A UFS partition is eight levels below its controller.
constexpr int kParentsMax = 16;

std::vector<LifetimeAttribute> open_all(const std::string& directory,
                                        std::span<const AttributeFile> files) {
    std::vector<LifetimeAttribute> attributes;
    for (const AttributeFile& file : files) {
        UniqueFd fd(
            ::open(fmt::format("{}/{}", directory, file.name).c_str(), O_RDONLY | O_CLOEXEC));
        if (!fd.valid()) {
            return {};
        }
        attributes.push_back({.kind = file.kind, .fd = std::move(fd)});
    }
    return attributes;
}

/// Takes "0x1f" and what separates it from the next off the front.
std::optional<uint16_t> take_number(std::string_view& text) {
    if (!text.starts_with("0x")) {
        return std::nullopt;
    }
    text.remove_prefix(2);
    uint16_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc()) {
        return std::nullopt;
    }
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (!text.empty()) {
        if (text.front() != ' ' && text.front() != '\n') {
            return std::nullopt;
        }
        text.remove_prefix(1);
    }
    return value;
}

}  // namespace

std::vector<LifetimeAttribute> find_lifetime_attributes(const std::string& sysfs, dev_t device) {
    const std::string link = fmt::format("{}/dev/block/{}:{}", sysfs, major(device), minor(device));
    const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(link.c_str(), nullptr),
                                                               &std::free);
    if (!resolved) {
        return {};
    }
    std::string directory(resolved.get());
    for (int i = 0; i < kParentsMax && !directory.empty(); ++i) {
        for (const std::span<const AttributeFile> files :
             {std::span<const AttributeFile>(kMmcFiles),
              std::span<const AttributeFile>(kUfsFiles)}) {
            if (auto attributes = open_all(directory, files); !attributes.empty()) {
                return attributes;
            }
        }
        directory.resize(directory.rfind('/'));
    }
    return {};
}

bool read_lifetime(const LifetimeAttribute& attribute,
                   std::string_view text,
                   ImageLifetime& lifetime) {
    const std::optional<uint16_t> first = take_number(text);
    const bool has_two = attribute.kind == Kind::kEstimates;
    const std::optional<uint16_t> second = has_two && first ? take_number(text) : first;
    if (!first || !second || !text.empty()) {
        return false;
    }
    switch (attribute.kind) {
        case Kind::kPreEndOfLife:
            lifetime.pre_end_of_life = *first;
            break;
        case Kind::kEstimateA:
            lifetime.estimate_a = *first;
            break;
        case Kind::kEstimateB:
            lifetime.estimate_b = *first;
            break;
        case Kind::kEstimates:
            lifetime.estimate_a = *first;
            lifetime.estimate_b = *second;
            break;
    }
    return true;
}

}  // namespace outrigger::blk
