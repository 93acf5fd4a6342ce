// SPDX-License-Identifier: Apache-2.0
/// What a driver's FUSE request says, parsed: complete values, or the errno with which it is
/// answered. Pure functions over bytes that were copied out of guest memory once; nothing behind
/// them looks at raw bytes.
///
/// Names are single components by construction: nobody can make a Name of something that a path
/// walk would leave its directory by. VIRTIO 1.3, 5.11; Linux, include/uapi/linux/fuse.h.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "devices/fs/fuse_wire.h"

namespace outrigger::fs {

using Bytes = std::span<const std::byte>;

/// An errno value, above 0.
using Errno = int;

/// The errno with which a request is answered that cannot be understood; who counts such tells it
/// from what the host says.
struct Malformed {
    // Both ways without a word: it is an errno value wherever nobody counts.
    constexpr Malformed(Errno value) : error(value) {}  // NOLINT(google-explicit-constructor)

    constexpr operator Errno() const { return error; }  // NOLINT(google-explicit-constructor)

    Errno error;
};

/// One component of a path that ends in a NUL: not empty, without a slash, neither "." nor "..".
/// Borrowed from the request's buffer.
class Name final {
  public:
    [[nodiscard]] const char* c_str() const { return text_.data(); }

    [[nodiscard]] std::string_view view() const { return text_; }

  private:
    friend Result<Name, Malformed> check_name(std::string_view text);

    explicit Name(std::string_view text) : text_(text) {}

    std::string_view text_;  // a NUL stands behind it
};

/// `text` is followed by a NUL. EINVAL for what is no component, ENAMETOOLONG beyond NAME_MAX.
[[nodiscard]] Result<Name, Malformed> check_name(std::string_view text);

/// What the header says, with sizes that were checked against the chain.
struct RequestHeader {
    uint32_t opcode = 0;
    uint64_t unique = 0;
    uint64_t node = 0;
    uint32_t uid = 0;
    uint32_t gid = 0;
    uint32_t body_bytes = 0;       ///< behind the header, with extensions
    uint32_t extension_bytes = 0;  ///< at its end
};

/// `readable_bytes`: of the whole chain. Fails (EINVAL) when the header's length lies about them;
/// that of a WRITE may only be shorter.
[[nodiscard]] Result<RequestHeader, Malformed> parse_header(const InHeader& header,
                                                            uint64_t readable_bytes);

/// The name of an extended attribute: 1 to 255 bytes and a NUL. Slashes mean nothing there.
using AttributeName = const char*;

struct SecurityContext {
    AttributeName name = nullptr;
    Bytes value{};
};

/// What may follow the arguments of whatever creates something.
struct Extensions {
    std::optional<uint32_t> group{};  ///< one supplementary group of the caller that matters
    std::optional<SecurityContext> security{};
};

/// What the driver agreed to at INIT, as far as it says what requests look like.
struct RequestForm {
    uint32_t extension_bytes = 0;  ///< that the header says; older kernels do not
    bool security_context = false;
    bool supplementary_group = false;
    bool long_setxattr = false;
};

/// A cursor over the body of one request. Every take fails with EINVAL where bytes are missing.
class BodyReader final {
  public:
    explicit BodyReader(Bytes body) : rest_(body) {}

    template <class T>
    requires std::is_trivially_copyable_v<T>

    [[nodiscard]] std::optional<T> take() {
        if (rest_.size() < sizeof(T)) {
            return std::nullopt;
        }
        T object;
        std::memcpy(&object, rest_.data(), sizeof(T));
        rest_ = rest_.subspan(sizeof(T));
        return object;
    }

    /// Up to the next NUL, which is taken, too.
    [[nodiscard]] std::optional<std::string_view> take_text();

    [[nodiscard]] std::optional<Bytes> take_bytes(size_t bytes);

    [[nodiscard]] Bytes rest() const { return rest_; }

    [[nodiscard]] bool at_end() const { return rest_.empty(); }

  private:
    Bytes rest_;
};

/// Arguments of fixed size, and nothing behind them.
template <class Args>
[[nodiscard]] Result<Args, Malformed> parse_fixed(Bytes body) {
    BodyReader reader(body);
    const auto args = reader.take<Args>();
    if (!args || !reader.at_end()) {
        return failure(EINVAL);
    }
    return *args;
}

struct NoArgs {};

/// Arguments of fixed size, then one name.
template <class Args>
struct Named {
    Args args{};
    Name name;
};

/// LOOKUP, UNLINK, RMDIR: nothing but a name.
[[nodiscard]] Result<Name, Malformed> parse_name(Bytes body);

/// What LOOKUP may name besides, where EXPORT_SUPPORT is agreed on: "." or "..".
enum class Dots : uint8_t { kItself, kParent };

[[nodiscard]] std::optional<Dots> parse_dots(Bytes body);

[[nodiscard]] Result<Named<fuse_link_in>, Malformed> parse_link(Bytes body);

/// What makes something with a name: MKDIR, MKNOD, CREATE.
template <class Args>
struct Creation {
    Args args{};
    Name name;
    Extensions extensions{};
};

[[nodiscard]] Result<Creation<fuse_mkdir_in>, Malformed> parse_mkdir(Bytes body, RequestForm form);
[[nodiscard]] Result<Creation<fuse_mknod_in>, Malformed> parse_mknod(Bytes body, RequestForm form);
[[nodiscard]] Result<Creation<fuse_create_in>, Malformed> parse_create(Bytes body,
                                                                       RequestForm form);

struct Tmpfile {
    fuse_create_in args{};  ///< its name, "/" or "#12", means nothing
    Extensions extensions{};
};

[[nodiscard]] Result<Tmpfile, Malformed> parse_tmpfile(Bytes body, RequestForm form);

struct Symlink {
    Name name;
    const char* target = nullptr;  ///< 1 to 4095 bytes of any text
    Extensions extensions{};
};

[[nodiscard]] Result<Symlink, Malformed> parse_symlink(Bytes body, RequestForm form);

struct Rename {
    uint64_t new_parent = 0;
    uint32_t flags = 0;  ///< of renameat2()
    Name from;
    Name to;
};

/// Of RENAME (no flags) and RENAME2.
[[nodiscard]] Result<Rename, Malformed> parse_rename(Bytes body, bool has_flags);

struct SetAttribute {
    AttributeName name = nullptr;
    Bytes value{};
    uint32_t flags = 0;  ///< of setxattr()
    bool kills_sgid = false;
};

[[nodiscard]] Result<SetAttribute, Malformed> parse_setxattr(Bytes body, RequestForm form);

struct GetAttribute {
    uint32_t size = 0;  ///< 0: only how long it is
    AttributeName name = nullptr;
};

[[nodiscard]] Result<GetAttribute, Malformed> parse_getxattr(Bytes body);
[[nodiscard]] Result<AttributeName, Malformed> parse_removexattr(Bytes body);

struct Init {
    uint32_t major = 0;
    uint32_t minor = 0;
    uint32_t readahead_max = 0;
    uint64_t flags = 0;
};

/// Takes both sizes of the struct, with and without INIT_EXT.
[[nodiscard]] Result<Init, Malformed> parse_init(Bytes body);

/// Bytes of the window.
struct RemovedMapping {
    uint64_t offset = 0;
    uint64_t bytes = 0;
};

/// REMOVEMAPPING: as many as it says, and nothing behind them.
[[nodiscard]] Result<std::vector<RemovedMapping>, Malformed> parse_removemapping(Bytes body);

struct Ioctl {
    fuse_ioctl_in args{};
    Bytes input{};
};

[[nodiscard]] Result<Ioctl, Malformed> parse_ioctl(Bytes body);

}  // namespace outrigger::fs
