// SPDX-License-Identifier: Apache-2.0
// Extended attributes. The calls on them are relative to the thread's working directory, which is
// /proc/self/fd: they refuse O_PATH descriptors, but not what these lead to.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <sys/xattr.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux.
constexpr size_t kAttributeBytesMax = 65'536;

/// A buffer for one extended attribute, or a list of names: 64 KiB a thread that asks for one.
std::span<std::byte> attribute_buffer() {
    static thread_local const auto buffer =
        std::make_unique_for_overwrite<std::array<std::byte, kAttributeBytesMax>>();
    return *buffer;
}

}  // namespace

/// The host's name of an attribute, if the guest may use it.
Result<std::string, Errno> FsServer::host_attribute(AttributeName name) const {
    std::string host = OUTRIGGER_TRY(settings_.attributes.to_host(name));
    // Whoever has not agreed on lists of access rights does not check who may change them, either.
    if (is_access_list(host) && !agreed(FUSE_POSIX_ACL)) {
        return failure(EOPNOTSUPP);
    }
    return host;
}

Verdict FsServer::setxattr(Call& call) {
    if (!settings_.xattr) {
        return failed(ENOSYS);
    }
    const SetAttribute wish = OUTRIGGER_FS_TRY(parse_setxattr(call.body, form()));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    const std::string name = OUTRIGGER_FS_TRY(host_attribute(wish.name));
    const ScopedWithoutFsetid as_user(capabilities_, wish.kills_sgid);
    return ::setxattr(FdName(inode->fd.get()).c_str(),
                      name.c_str(),
                      wish.value.data(),
                      wish.value.size(),
                      static_cast<int>(wish.flags)) == 0
               ? Verdict::kAnswered
               : failed(errno);
}

Verdict FsServer::removexattr(Call& call) {
    if (!settings_.xattr) {
        return failed(ENOSYS);
    }
    const AttributeName wish = OUTRIGGER_FS_TRY(parse_removexattr(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    const std::string name = OUTRIGGER_FS_TRY(host_attribute(wish));
    return ::removexattr(FdName(inode->fd.get()).c_str(), name.c_str()) == 0 ? Verdict::kAnswered
                                                                             : failed(errno);
}

/// `bytes`: of attribute_buffer(), for who wants `wanted` of them, 0 being a question for how many
/// there are.
Verdict FsServer::answer_attribute(Call& call, size_t bytes, uint32_t wanted) {
    if (wanted == 0) {
        const fuse_getxattr_out out{.size = static_cast<uint32_t>(bytes), .padding = 0};
        return call.reply.append_object(out) ? Verdict::kAnswered : failed(EINVAL);
    }
    if (bytes > wanted) {
        return failed(ERANGE);
    }
    return call.reply.append(attribute_buffer().first(bytes)) ? Verdict::kAnswered : failed(EINVAL);
}

Verdict FsServer::getxattr(Call& call) {
    if (!settings_.xattr) {
        return failed(ENOSYS);
    }
    const GetAttribute wish = OUTRIGGER_FS_TRY(parse_getxattr(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    const auto name = host_attribute(wish.name);
    if (!name) {
        // What may not be made is not there.
        return failed(name.error() == EPERM ? ENODATA : name.error());
    }
    const ssize_t bytes = ::getxattr(FdName(inode->fd.get()).c_str(),
                                     name->c_str(),
                                     attribute_buffer().data(),
                                     std::min<size_t>(wish.size, kAttributeBytesMax));
    return bytes < 0 ? failed(errno)
                     : answer_attribute(call, static_cast<size_t>(bytes), wish.size);
}

/// The guest's names for what attribute_buffer() has `bytes` of the host's, in their place. They
/// are not longer.
size_t FsServer::translate_list(size_t bytes) const {
    const std::span<std::byte> buffer = attribute_buffer();
    size_t kept = 0;
    for (size_t at = 0; at < bytes;) {
        // SAFETY: char may alias anything; the buffer is ours, and the kernel ends each name in it
        // by a NUL.
        const std::string_view name(reinterpret_cast<const char*>(&buffer[at]));
        at += name.size() + 1;
        const auto seen = settings_.attributes.to_guest(name);
        if (!seen || seen->empty() || (is_access_list(name) && !agreed(FUSE_POSIX_ACL))) {
            continue;
        }
        std::memmove(&buffer[kept], seen->data(), seen->size() + 1);
        kept += seen->size() + 1;
    }
    return kept;
}

Verdict FsServer::listxattr(Call& call) {
    if (!settings_.xattr) {
        return failed(ENOSYS);
    }
    const auto wish = OUTRIGGER_FS_TRY(parse_fixed<fuse_getxattr_in>(call.body));
    const InodeRef inode = OUTRIGGER_FS_TRY(inode_of(call.header.node));
    // Always whole: what the guest gets of it is measured behind the translation.
    // SAFETY: char may alias anything; the buffer is ours.
    const ssize_t bytes = ::listxattr(FdName(inode->fd.get()).c_str(),
                                      reinterpret_cast<char*>(attribute_buffer().data()),
                                      kAttributeBytesMax);
    if (bytes < 0) {
        return failed(errno);
    }
    return answer_attribute(call, translate_list(static_cast<size_t>(bytes)), wish.size);
}

/// Gives what was just made its security label. An errno value, or 0.
Errno FsServer::label(const Inode& inode, const Extensions& extensions) {
    if (!extensions.security) {
        return 0;
    }
    const SecurityContext& context = *extensions.security;
    const auto name = host_attribute(context.name);
    if (!name) {
        return name.error();
    }
    return ::setxattr(FdName(inode.fd.get()).c_str(),
                      name->c_str(),
                      context.value.data(),
                      context.value.size(),
                      0) == 0
               ? 0
               : errno;
}

/// Of what is open or pinned as `fd`: takes the file's capabilities away, where they lie under a
/// name that the kernel does not know, as it does itself when somebody writes to a file.
void FsServer::drop_mapped_capabilities(int fd) const {
    if (!settings_.capabilities_name.empty()) {
        (void)::removexattr(FdName(fd).c_str(), settings_.capabilities_name.c_str());
    }
}

}  // namespace outrigger::fs
