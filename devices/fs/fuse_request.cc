// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fuse_request.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <limits.h>

namespace outrigger::fs {
namespace {

/// XATTR_NAME_MAX and XATTR_SIZE_MAX of Linux.
constexpr size_t kAttributeNameMax = 255;
constexpr size_t kAttributeBytesMax = 65'536;

/// Of what lies between the start of two extensions.
constexpr size_t align_record(size_t bytes) {
    return (bytes + 7) & ~size_t{7};
}

Result<AttributeName, Malformed> take_attribute_name(BodyReader& reader) {
    const auto text = reader.take_text();
    if (!text) {
        return failure(EINVAL);
    }
    if (text->empty() || text->size() > kAttributeNameMax) {
        return failure(ERANGE);
    }
    return text->data();
}

Result<Name, Malformed> take_name(BodyReader& reader) {
    const auto text = reader.take_text();
    if (!text) {
        return failure(EINVAL);
    }
    return check_name(*text);
}

/// One security context or none; `count` is how many the header names.
Result<std::optional<SecurityContext>, Malformed> parse_security(Bytes body, uint32_t count) {
    if (count == 0) {
        return std::nullopt;
    }
    if (count > 1) {
        return failure(EOPNOTSUPP);  // stacked security modules
    }
    BodyReader reader(body);
    const auto head = reader.take<fuse_secctx>();
    if (!head || head->size > kAttributeBytesMax) {
        return failure(EINVAL);
    }
    SecurityContext context;
    context.name = OUTRIGGER_TRY(take_attribute_name(reader));
    const auto value = reader.take_bytes(head->size);
    if (!value) {
        return failure(EINVAL);
    }
    context.value = *value;
    return context;
}

Result<std::optional<uint32_t>, Malformed> parse_group(Bytes body) {
    BodyReader reader(body);
    const auto count = reader.take<uint32_t>();
    if (!count || *count > 1) {
        return failure(EINVAL);  // the kernel names the one that matters
    }
    if (*count == 0) {
        return std::nullopt;
    }
    const auto group = reader.take<uint32_t>();
    if (!group) {
        return failure(EINVAL);
    }
    return group;
}

/// The records behind the arguments; each has been promised at INIT, and comes once at most.
Result<Extensions, Malformed> parse_extensions(Bytes rest, RequestForm form) {
    Extensions extensions;
    if (form.extension_bytes != 0 && form.extension_bytes != rest.size()) {
        return failure(EINVAL);
    }
    while (!rest.empty()) {
        BodyReader reader(rest);
        const auto head = reader.take<ExtensionHeader>();
        if (!head || head->size < sizeof *head || head->size > rest.size()) {
            return failure(EINVAL);
        }
        const Bytes body = rest.subspan(sizeof *head, head->size - sizeof *head);
        if (head->type <= kExtensionSecurityMax && form.security_context && !extensions.security) {
            extensions.security = OUTRIGGER_TRY(parse_security(body, head->type));
        } else if (head->type == kExtensionGroups && form.supplementary_group &&
                   !extensions.group) {
            extensions.group = OUTRIGGER_TRY(parse_group(body));
        } else {
            return failure(EINVAL);
        }
        rest = rest.subspan(std::min(align_record(head->size), rest.size()));
    }
    return extensions;
}

template <class Args>
Result<Creation<Args>, Malformed> parse_creation(Bytes body, RequestForm form) {
    BodyReader reader(body);
    const auto args = reader.take<Args>();
    if (!args) {
        return failure(EINVAL);
    }
    const Name name = OUTRIGGER_TRY(take_name(reader));
    return Creation<Args>{.args = *args,
                          .name = name,
                          .extensions = OUTRIGGER_TRY(parse_extensions(reader.rest(), form))};
}

}  // namespace

std::optional<std::string_view> BodyReader::take_text() {
    if (rest_.empty()) {
        return std::nullopt;
    }
    const void* const end = std::memchr(rest_.data(), 0, rest_.size());
    if (end == nullptr) {
        return std::nullopt;
    }
    const auto length = static_cast<size_t>(static_cast<const std::byte*>(end) - rest_.data());
    // SAFETY: char may alias anything; the bytes are ours and outlive the request.
    const std::string_view text(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length + 1);
    return text;
}

std::optional<Bytes> BodyReader::take_bytes(size_t bytes) {
    if (rest_.size() < bytes) {
        return std::nullopt;
    }
    const Bytes taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
}

std::optional<Dots> parse_dots(Bytes body) {
    constexpr std::array kDots = {std::byte{'.'}, std::byte{'.'}, std::byte{0}};
    if (std::ranges::equal(body, std::span(kDots).subspan(1))) {
        return Dots::kItself;
    }
    return std::ranges::equal(body, kDots) ? std::optional(Dots::kParent) : std::nullopt;
}

Result<Name, Malformed> check_name(std::string_view text) {
    if (text.empty() || text == "." || text == ".." ||
        std::memchr(text.data(), '/', text.size()) != nullptr) {
        return failure(EINVAL);
    }
    if (text.size() > NAME_MAX) {
        return failure(ENAMETOOLONG);
    }
    return Name(text);
}

Result<RequestHeader, Malformed> parse_header(const InHeader& header, uint64_t readable_bytes) {
    const bool is_write = header.opcode == FUSE_WRITE;
    if (header.len < sizeof header || header.len > readable_bytes ||
        (!is_write && header.len != readable_bytes)) {
        return failure(EINVAL);
    }
    const auto body_bytes = static_cast<uint32_t>(header.len - sizeof header);
    const uint32_t extension_bytes = uint32_t{header.total_extlen} * 8;
    if (extension_bytes > body_bytes) {
        return failure(EINVAL);
    }
    return RequestHeader{.opcode = header.opcode,
                         .unique = header.unique,
                         .node = header.nodeid,
                         .uid = header.uid,
                         .gid = header.gid,
                         .body_bytes = body_bytes,
                         .extension_bytes = extension_bytes};
}

Result<Name, Malformed> parse_name(Bytes body) {
    BodyReader reader(body);
    const Name name = OUTRIGGER_TRY(take_name(reader));
    if (!reader.at_end()) {
        return failure(EINVAL);
    }
    return name;
}

Result<Named<fuse_link_in>, Malformed> parse_link(Bytes body) {
    BodyReader reader(body);
    const auto args = reader.take<fuse_link_in>();
    if (!args) {
        return failure(EINVAL);
    }
    return Named<fuse_link_in>{.args = *args, .name = OUTRIGGER_TRY(parse_name(reader.rest()))};
}

Result<Creation<fuse_mkdir_in>, Malformed> parse_mkdir(Bytes body, RequestForm form) {
    return parse_creation<fuse_mkdir_in>(body, form);
}

Result<Creation<fuse_mknod_in>, Malformed> parse_mknod(Bytes body, RequestForm form) {
    return parse_creation<fuse_mknod_in>(body, form);
}

Result<Creation<fuse_create_in>, Malformed> parse_create(Bytes body, RequestForm form) {
    return parse_creation<fuse_create_in>(body, form);
}

Result<Tmpfile, Malformed> parse_tmpfile(Bytes body, RequestForm form) {
    BodyReader reader(body);
    const auto args = reader.take<fuse_create_in>();
    if (!args || !reader.take_text()) {
        return failure(EINVAL);
    }
    return Tmpfile{.args = *args,
                   .extensions = OUTRIGGER_TRY(parse_extensions(reader.rest(), form))};
}

Result<Symlink, Malformed> parse_symlink(Bytes body, RequestForm form) {
    BodyReader reader(body);
    const Name name = OUTRIGGER_TRY(take_name(reader));
    const auto target = reader.take_text();
    if (!target) {
        return failure(EINVAL);
    }
    if (target->empty()) {
        return failure(ENOENT);
    }
    if (target->size() >= PATH_MAX) {
        return failure(ENAMETOOLONG);
    }
    return Symlink{.name = name,
                   .target = target->data(),
                   .extensions = OUTRIGGER_TRY(parse_extensions(reader.rest(), form))};
}

Result<Rename, Malformed> parse_rename(Bytes body, bool has_flags) {
    BodyReader reader(body);
    uint64_t new_parent = 0;
    uint32_t flags = 0;
    if (has_flags) {
        const auto args = reader.take<fuse_rename2_in>();
        if (!args) {
            return failure(EINVAL);
        }
        new_parent = args->newdir;
        flags = args->flags;
    } else {
        const auto args = reader.take<fuse_rename_in>();
        if (!args) {
            return failure(EINVAL);
        }
        new_parent = args->newdir;
    }
    constexpr uint32_t kKnownFlags = 0b111;  // NOREPLACE, EXCHANGE, WHITEOUT
    if ((flags & ~kKnownFlags) != 0) {
        return failure(EINVAL);
    }
    const Name from = OUTRIGGER_TRY(take_name(reader));
    return Rename{.new_parent = new_parent,
                  .flags = flags,
                  .from = from,
                  .to = OUTRIGGER_TRY(parse_name(reader.rest()))};
}

Result<SetAttribute, Malformed> parse_setxattr(Bytes body, RequestForm form) {
    BodyReader reader(body);
    fuse_setxattr_in args{};
    if (form.long_setxattr) {
        const auto all = reader.take<fuse_setxattr_in>();
        if (!all) {
            return failure(EINVAL);
        }
        args = *all;
    } else {
        const auto size = reader.take<uint32_t>();
        const auto flags = reader.take<uint32_t>();
        if (!size || !flags) {
            return failure(EINVAL);
        }
        args.size = *size;
        args.flags = *flags;
    }
    if (args.size > kAttributeBytesMax) {
        return failure(E2BIG);
    }
    constexpr uint32_t kKnownFlags = 0b11;  // CREATE, REPLACE
    if ((args.flags & ~kKnownFlags) != 0) {
        return failure(EINVAL);
    }
    SetAttribute request{.name = OUTRIGGER_TRY(take_attribute_name(reader)),
                         .value = reader.rest(),
                         .flags = args.flags,
                         .kills_sgid = (args.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0};
    if (request.value.size() != args.size) {
        return failure(EINVAL);
    }
    return request;
}

Result<GetAttribute, Malformed> parse_getxattr(Bytes body) {
    BodyReader reader(body);
    const auto args = reader.take<fuse_getxattr_in>();
    if (!args) {
        return failure(EINVAL);
    }
    return GetAttribute{.size = args->size,
                        .name = OUTRIGGER_TRY(parse_removexattr(reader.rest()))};
}

Result<AttributeName, Malformed> parse_removexattr(Bytes body) {
    BodyReader reader(body);
    const AttributeName name = OUTRIGGER_TRY(take_attribute_name(reader));
    if (!reader.at_end()) {
        return failure(EINVAL);
    }
    return name;
}

Result<Init, Malformed> parse_init(Bytes body) {
    constexpr size_t kShortBytes = 16;
    fuse_init_in args{};
    if (body.size() < kShortBytes) {
        return failure(EINVAL);
    }
    std::memcpy(&args, body.data(), std::min(body.size(), sizeof args));
    uint64_t flags = args.flags;
    if ((flags & FUSE_INIT_EXT) != 0) {
        if (body.size() < sizeof args) {
            return failure(EINVAL);
        }
        flags |= uint64_t{args.flags2} << 32;
    }
    return Init{.major = args.major,
                .minor = args.minor,
                .readahead_max = args.max_readahead,
                .flags = flags};
}

Result<std::vector<RemovedMapping>, Malformed> parse_removemapping(Bytes body) {
    BodyReader reader(body);
    const auto args = reader.take<fuse_removemapping_in>();
    if (!args || args->count == 0 ||
        reader.rest().size() != uint64_t{args->count} * sizeof(fuse_removemapping_one)) {
        return failure(EINVAL);
    }
    std::vector<RemovedMapping> mappings;
    mappings.reserve(args->count);
    while (const auto one = reader.take<fuse_removemapping_one>()) {
        mappings.push_back({.offset = one->moffset, .bytes = one->len});
    }
    return mappings;
}

Result<Ioctl, Malformed> parse_ioctl(Bytes body) {
    BodyReader reader(body);
    const auto args = reader.take<fuse_ioctl_in>();
    if (!args || reader.rest().size() != args->in_size) {
        return failure(EINVAL);
    }
    return Ioctl{.args = *args, .input = reader.rest()};
}

}  // namespace outrigger::fs
