// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/aml.h"

#include <array>

namespace outrigger::vmm::aml {
namespace {

constexpr uint8_t kZeroOp = 0x00;
constexpr uint8_t kOneOp = 0x01;
constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0A;
constexpr uint8_t kWordPrefix = 0x0B;
constexpr uint8_t kDWordPrefix = 0x0C;
constexpr uint8_t kStringPrefix = 0x0D;
constexpr uint8_t kQWordPrefix = 0x0E;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kMethodOp = 0x14;
constexpr uint8_t kDualNamePrefix = 0x2E;
constexpr uint8_t kMultiNamePrefix = 0x2F;
constexpr uint8_t kExtendedPrefix = 0x5B;
constexpr uint8_t kDeviceOp = 0x82;
constexpr uint8_t kRootChar = '\\';
constexpr uint8_t kArg0Op = 0x68;
constexpr uint8_t kNotifyOp = 0x86;
constexpr uint8_t kEqualOp = 0x93;
constexpr uint8_t kIfOp = 0xA0;
constexpr uint8_t kReturnOp = 0xA4;

/// One by one: g++ 12 sees overflows in an insert into what is short.
template <class Range>
void append(Bytes& out, const Range& more) {
    for (const auto byte : more) {
        out.push_back(static_cast<uint8_t>(byte));
    }
}

template <class T>
void append_number(Bytes& out, T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
        out.push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i)));
    }
}

/// PkgLength counts itself: `content` behind it, in the shortest of four forms.
Bytes with_length(const Bytes& content) {
    Bytes out;
    size_t extra = 0;
    while (content.size() + extra + 1 >= (extra == 0 ? 64U : size_t{1} << (4 + 8 * extra))) {
        ++extra;
    }
    const size_t total = content.size() + extra + 1;
    if (extra == 0) {
        out.push_back(static_cast<uint8_t>(total));
    } else {
        out.push_back(static_cast<uint8_t>((extra << 6U) | (total & 0xFU)));
        for (size_t i = 0; i < extra; ++i) {
            out.push_back(static_cast<uint8_t>(total >> (4 + 8 * i)));
        }
    }
    append(out, content);
    return out;
}

Bytes block(std::initializer_list<uint8_t> opcode, Bytes head, std::span<const Bytes> content) {
    append(head, join(content));
    Bytes out(opcode);
    append(out, with_length(head));
    return out;
}

/// The fields that Word, DWord and QWord address spaces share.
template <class T>
Bytes address_space(uint8_t tag, uint8_t kind, uint8_t flags, T first, T last) {
    Bytes out = {tag};
    append_number<uint16_t>(out, static_cast<uint16_t>(3 + 5 * sizeof(T)));
    out.push_back(kind);
    out.push_back(0x0C);  // both ends are fixed, and the bridge passes it on
    out.push_back(flags);
    append_number<T>(out, 0);  // granularity
    append_number<T>(out, first);
    append_number<T>(out, last);
    append_number<T>(out, 0);  // no translation
    append_number<T>(out, static_cast<T>(last - first + 1));
    return out;
}

uint8_t hex_digit(char c) {
    return static_cast<uint8_t>(c >= 'a' ? c - 'a' + 10 : c >= 'A' ? c - 'A' + 10 : c - '0');
}

}  // namespace

Bytes join(std::span<const Bytes> parts) {
    Bytes out;
    for (const Bytes& part : parts) {
        append(out, part);
    }
    return out;
}

Bytes name_string(std::string_view path) {
    Bytes out;
    if (path.starts_with('\\')) {
        out.push_back(kRootChar);
        path.remove_prefix(1);
    }
    std::vector<std::string_view> segments;
    while (path.size() >= 4) {
        segments.push_back(path.substr(0, 4));
        path.remove_prefix(path.size() > 4 ? 5 : 4);  // the dot between two
    }
    if (segments.size() == 2) {
        out.push_back(kDualNamePrefix);
    } else if (segments.size() > 2) {
        out.push_back(kMultiNamePrefix);
        out.push_back(static_cast<uint8_t>(segments.size()));
    }
    for (const std::string_view segment : segments) {
        append(out, segment);
    }
    return out;
}

Bytes integer(uint64_t value) {
    if (value == 0) {
        return {kZeroOp};
    }
    if (value == 1) {
        return {kOneOp};
    }
    Bytes out;
    if (value <= 0xFF) {
        out = {kBytePrefix};
        append_number(out, static_cast<uint8_t>(value));
    } else if (value <= 0xFFFF) {
        out = {kWordPrefix};
        append_number(out, static_cast<uint16_t>(value));
    } else if (value <= 0xFFFFFFFF) {
        out = {kDWordPrefix};
        append_number(out, static_cast<uint32_t>(value));
    } else {
        out = {kQWordPrefix};
        append_number(out, value);
    }
    return out;
}

Bytes eisa_id(std::string_view id) {
    uint32_t value = 0;
    for (size_t i = 0; i < 3; ++i) {
        value = (value << 5U) | (static_cast<uint32_t>(id[i] - '@') & 0x1FU);
    }
    for (size_t i = 3; i < 7; ++i) {
        value = (value << 4U) | hex_digit(id[i]);
    }
    // The number is big-endian, the integer in the byte code is not.
    return integer(__builtin_bswap32(value));
}

Bytes text(std::string_view value) {
    Bytes out = {kStringPrefix};
    append(out, value);
    out.push_back(0);
    return out;
}

Bytes package(std::span<const Bytes> elements) {
    return block({kPackageOp}, {static_cast<uint8_t>(elements.size())}, elements);
}

Bytes buffer(std::span<const uint8_t> content) {
    const Bytes bytes(content.begin(), content.end());
    return block({kBufferOp}, integer(content.size()), std::array{bytes});
}

Bytes name(std::string_view path, const Bytes& value) {
    return join(std::array{Bytes{kNameOp}, name_string(path), value});
}

Bytes scope(std::string_view path, std::span<const Bytes> content) {
    return block({kScopeOp}, name_string(path), content);
}

Bytes device(std::string_view path, std::span<const Bytes> content) {
    return block({kExtendedPrefix, kDeviceOp}, name_string(path), content);
}

Bytes method(std::string_view path, uint8_t arguments, std::span<const Bytes> content) {
    Bytes head = name_string(path);
    head.push_back(arguments);
    return block({kMethodOp}, std::move(head), content);
}

Bytes argument(uint8_t index) {
    return {static_cast<uint8_t>(kArg0Op + index)};
}

Bytes equal(const Bytes& left, const Bytes& right) {
    return join(std::array{Bytes{kEqualOp}, left, right});
}

Bytes if_true(const Bytes& condition, std::span<const Bytes> content) {
    return block({kIfOp}, condition, content);
}

Bytes give_back(const Bytes& value) {
    return join(std::array{Bytes{kReturnOp}, value});
}

Bytes notify(std::string_view path, uint64_t value) {
    return join(std::array{Bytes{kNotifyOp}, name_string(path), integer(value)});
}

Bytes uuid(std::string_view text) {
    // The first three groups are little-endian.
    constexpr std::array<uint8_t, 16> kDigits = {
        6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
    Bytes bytes;
    for (const uint8_t at : kDigits) {
        bytes.push_back(
            static_cast<uint8_t>((hex_digit(text[at]) << 4U) | hex_digit(text[at + 1U])));
    }
    return buffer(bytes);
}

Bytes bus_numbers(uint16_t first, uint16_t last) {
    return address_space<uint16_t>(0x88, 2, 0, first, last);
}

Bytes memory_window32(uint32_t start, uint32_t bytes) {
    return address_space<uint32_t>(0x87, 0, 0x01, start, start + bytes - 1);
}

Bytes memory_window64(uint64_t start, uint64_t bytes) {
    return address_space<uint64_t>(0x8A, 0, 0x01, start, start + bytes - 1);
}

Bytes fixed_memory32(uint32_t start, uint32_t bytes) {
    Bytes out = {0x86, 9, 0, 1};  // writable
    append_number(out, start);
    append_number(out, bytes);
    return out;
}

Bytes ports(uint16_t start, uint8_t count) {
    Bytes out = {0x47, 1};  // all 16 bits are decoded
    append_number(out, start);
    append_number(out, start);
    out.push_back(1);
    out.push_back(count);
    return out;
}

Bytes interrupt(uint32_t gsi) {
    Bytes out = {0x89, 6, 0, 0x03, 1};  // a consumer; edge, active high, exclusive
    append_number(out, gsi);
    return out;
}

Bytes resources(std::span<const Bytes> descriptors) {
    Bytes all = join(descriptors);
    all.push_back(0x79);  // the end
    all.push_back(0);     // a sum of zero is not looked at
    return buffer(all);
}

}  // namespace outrigger::vmm::aml
