// SPDX-License-Identifier: Apache-2.0
#include "tests/fs/fuse_asks.h"

namespace outrigger::testing::ask {

FuseRequest lookup(uint64_t parent, std::string_view name) {
    return {.opcode = FUSE_LOOKUP,
            .nodeid = parent,
            .arguments = FuseArguments().name(name),
            .room = kEntryRoom};
}

FuseRequest forget(uint64_t node, uint64_t count) {
    return {.opcode = FUSE_FORGET,
            .nodeid = node,
            .arguments = FuseArguments().add(fuse_forget_in{.nlookup = count}),
            .answered = false};
}

FuseRequest batch_forget(std::span<const fuse_forget_one> nodes) {
    FuseArguments arguments;
    arguments.add(fuse_batch_forget_in{.count = static_cast<uint32_t>(nodes.size()), .dummy = 0});
    for (const fuse_forget_one& one : nodes) {
        arguments.add(one);
    }
    return {.opcode = FUSE_BATCH_FORGET, .nodeid = 0, .arguments = arguments, .answered = false};
}

FuseRequest getattr(uint64_t node) {
    return {.opcode = FUSE_GETATTR,
            .nodeid = node,
            .arguments = FuseArguments().add(fuse_getattr_in{}),
            .room = sizeof(fuse_attr_out)};
}

FuseRequest setattr(uint64_t node, const fuse_setattr_in& in) {
    return {.opcode = FUSE_SETATTR,
            .nodeid = node,
            .arguments = FuseArguments().add(in),
            .room = sizeof(fuse_attr_out)};
}

FuseRequest readlink(uint64_t node) {
    return {.opcode = FUSE_READLINK, .nodeid = node, .room = 4095};
}

FuseRequest symlink(uint64_t parent, std::string_view name, std::string_view target) {
    return {.opcode = FUSE_SYMLINK,
            .nodeid = parent,
            .arguments = FuseArguments().name(name).name(target),
            .room = kEntryRoom};
}

FuseRequest mknod(uint64_t parent, std::string_view name, uint32_t mode, uint32_t rdev) {
    return {
        .opcode = FUSE_MKNOD,
        .nodeid = parent,
        .arguments = FuseArguments()
                         .add(fuse_mknod_in{.mode = mode, .rdev = rdev, .umask = 0, .padding = 0})
                         .name(name),
        .room = kEntryRoom};
}

FuseRequest mkdir(uint64_t parent, std::string_view name, uint32_t mode) {
    return {.opcode = FUSE_MKDIR,
            .nodeid = parent,
            .arguments = FuseArguments().add(fuse_mkdir_in{.mode = mode, .umask = 0}).name(name),
            .room = kEntryRoom};
}

FuseRequest unlink(uint64_t parent, std::string_view name) {
    return {.opcode = FUSE_UNLINK, .nodeid = parent, .arguments = FuseArguments().name(name)};
}

FuseRequest rmdir(uint64_t parent, std::string_view name) {
    return {.opcode = FUSE_RMDIR, .nodeid = parent, .arguments = FuseArguments().name(name)};
}

FuseRequest rename(uint64_t parent,
                   std::string_view name,
                   uint64_t new_parent,
                   std::string_view new_name) {
    return {
        .opcode = FUSE_RENAME,
        .nodeid = parent,
        .arguments =
            FuseArguments().add(fuse_rename_in{.newdir = new_parent}).name(name).name(new_name)};
}

FuseRequest rename2(uint64_t parent,
                    std::string_view name,
                    uint64_t new_parent,
                    std::string_view new_name,
                    uint32_t flags) {
    return {
        .opcode = FUSE_RENAME2,
        .nodeid = parent,
        .arguments = FuseArguments()
                         .add(fuse_rename2_in{.newdir = new_parent, .flags = flags, .padding = 0})
                         .name(name)
                         .name(new_name)};
}

FuseRequest link(uint64_t node, uint64_t new_parent, std::string_view new_name) {
    return {.opcode = FUSE_LINK,
            .nodeid = new_parent,
            .arguments = FuseArguments().add(fuse_link_in{.oldnodeid = node}).name(new_name),
            .room = kEntryRoom};
}

FuseRequest open(uint64_t node, uint32_t flags) {
    return {.opcode = FUSE_OPEN,
            .nodeid = node,
            .arguments = FuseArguments().add(fuse_open_in{.flags = flags, .open_flags = 0}),
            .room = sizeof(fuse_open_out)};
}

FuseRequest opendir(uint64_t node) {
    FuseRequest request = open(node, 0);
    request.opcode = FUSE_OPENDIR;
    return request;
}

FuseRequest create(uint64_t parent, std::string_view name, uint32_t flags, uint32_t mode) {
    return {.opcode = FUSE_CREATE,
            .nodeid = parent,
            .arguments =
                FuseArguments()
                    .add(fuse_create_in{.flags = flags, .mode = mode, .umask = 0, .open_flags = 0})
                    .name(name),
            .room = kCreateRoom};
}

FuseRequest tmpfile(uint64_t parent, uint32_t flags, uint32_t mode) {
    FuseRequest request = create(parent, "", flags, mode);
    request.opcode = kFuseTmpfile;
    return request;
}

FuseRequest read(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size) {
    fuse_read_in in{};
    in.fh = fh;
    in.offset = offset;
    in.size = size;
    return {
        .opcode = FUSE_READ, .nodeid = node, .arguments = FuseArguments().add(in), .room = size};
}

FuseRequest write(
    uint64_t node, uint64_t fh, uint64_t offset, std::string_view data, uint32_t write_flags) {
    fuse_write_in in{};
    in.fh = fh;
    in.offset = offset;
    in.size = static_cast<uint32_t>(data.size());
    in.write_flags = write_flags;
    return {.opcode = FUSE_WRITE,
            .nodeid = node,
            .arguments = FuseArguments().add(in).raw(data),
            .room = sizeof(fuse_write_out)};
}

FuseRequest readdir(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size) {
    FuseRequest request = read(node, fh, offset, size);
    request.opcode = FUSE_READDIR;
    return request;
}

FuseRequest readdirplus(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size) {
    FuseRequest request = read(node, fh, offset, size);
    request.opcode = FUSE_READDIRPLUS;
    return request;
}

FuseRequest flush(uint64_t node, uint64_t fh, uint64_t lock_owner) {
    fuse_flush_in in{};
    in.fh = fh;
    in.lock_owner = lock_owner;
    return {.opcode = FUSE_FLUSH, .nodeid = node, .arguments = FuseArguments().add(in)};
}

FuseRequest release(uint64_t node, uint64_t fh) {
    fuse_release_in in{};
    in.fh = fh;
    return {.opcode = FUSE_RELEASE, .nodeid = node, .arguments = FuseArguments().add(in)};
}

FuseRequest releasedir(uint64_t node, uint64_t fh) {
    FuseRequest request = release(node, fh);
    request.opcode = FUSE_RELEASEDIR;
    return request;
}

FuseRequest fsync(uint64_t node, uint64_t fh) {
    fuse_fsync_in in{};
    in.fh = fh;
    return {.opcode = FUSE_FSYNC, .nodeid = node, .arguments = FuseArguments().add(in)};
}

FuseRequest statfs(uint64_t node) {
    return {.opcode = FUSE_STATFS, .nodeid = node, .room = sizeof(fuse_statfs_out)};
}

FuseRequest access(uint64_t node, uint32_t mask) {
    return {.opcode = FUSE_ACCESS,
            .nodeid = node,
            .arguments = FuseArguments().add(fuse_access_in{.mask = mask, .padding = 0})};
}

FuseRequest setxattr(
    uint64_t node, std::string_view name, std::string_view value, bool extended, uint32_t flags) {
    fuse_setxattr_in in{};
    in.size = static_cast<uint32_t>(value.size());
    in.flags = flags;
    const auto bytes = std::as_bytes(std::span(&in, 1));
    return {.opcode = FUSE_SETXATTR,
            .nodeid = node,
            .arguments = FuseArguments()
                             .raw(bytes.first(extended ? sizeof in : FUSE_COMPAT_SETXATTR_IN_SIZE))
                             .name(name)
                             .raw(value)};
}

FuseRequest getxattr(uint64_t node, std::string_view name, uint32_t size) {
    return {
        .opcode = FUSE_GETXATTR,
        .nodeid = node,
        .arguments = FuseArguments().add(fuse_getxattr_in{.size = size, .padding = 0}).name(name),
        .room = size == 0 ? uint32_t{sizeof(fuse_getxattr_out)} : size};
}

FuseRequest listxattr(uint64_t node, uint32_t size) {
    return {.opcode = FUSE_LISTXATTR,
            .nodeid = node,
            .arguments = FuseArguments().add(fuse_getxattr_in{.size = size, .padding = 0}),
            .room = size == 0 ? uint32_t{sizeof(fuse_getxattr_out)} : size};
}

FuseRequest removexattr(uint64_t node, std::string_view name) {
    return {.opcode = FUSE_REMOVEXATTR, .nodeid = node, .arguments = FuseArguments().name(name)};
}

FuseRequest lseek(uint64_t node, uint64_t fh, uint64_t offset, uint32_t whence) {
    return {.opcode = FUSE_LSEEK,
            .nodeid = node,
            .arguments = FuseArguments().add(
                fuse_lseek_in{.fh = fh, .offset = offset, .whence = whence, .padding = 0}),
            .room = sizeof(fuse_lseek_out)};
}

FuseRequest fallocate(uint64_t node, uint64_t fh, uint64_t offset, uint64_t length, uint32_t mode) {
    return {.opcode = FUSE_FALLOCATE,
            .nodeid = node,
            .arguments = FuseArguments().add(fuse_fallocate_in{
                .fh = fh, .offset = offset, .length = length, .mode = mode, .padding = 0})};
}

FuseRequest copy_file_range(const fuse_copy_file_range_in& in, uint64_t node) {
    return {.opcode = FUSE_COPY_FILE_RANGE,
            .nodeid = node,
            .arguments = FuseArguments().add(in),
            .room = sizeof(fuse_write_out)};
}

FuseRequest lock(uint32_t opcode,
                 uint64_t node,
                 uint64_t fh,
                 uint64_t owner,
                 const fuse_file_lock& lock,
                 uint32_t flags) {
    return {.opcode = opcode,
            .nodeid = node,
            .arguments = FuseArguments().add(
                fuse_lk_in{.fh = fh, .owner = owner, .lk = lock, .lk_flags = flags, .padding = 0}),
            .room = opcode == FUSE_GETLK ? uint32_t{sizeof(fuse_lk_out)} : 0};
}

FuseRequest interrupt(uint64_t unique) {
    return {.opcode = FUSE_INTERRUPT,
            .nodeid = 0,
            .arguments = FuseArguments().add(fuse_interrupt_in{.unique = unique})};
}

FuseRequest syncfs(uint64_t node) {
    return {
        .opcode = FUSE_SYNCFS, .nodeid = node, .arguments = FuseArguments().add(fuse_syncfs_in{})};
}

FuseRequest destroy() {
    return {.opcode = FUSE_DESTROY, .nodeid = 0};
}

FuseRequest labelled(FuseRequest request, std::string_view name, std::string_view label) {
    constexpr size_t kUnit = 8;
    FuseArguments context;
    context.add(fuse_secctx{.size = static_cast<uint32_t>(label.size()), .padding = 0})
        .name(name)
        .raw(label);
    Bytes body = context;
    body.resize((body.size() + kUnit - 1) / kUnit * kUnit);
    const size_t bytes = sizeof(fuse_secctx_header) + body.size();
    request.arguments =
        FuseArguments()
            .raw(request.arguments)
            .add(fuse_secctx_header{.size = static_cast<uint32_t>(bytes), .nr_secctx = 1})
            .raw(body);
    request.total_extlen = static_cast<uint16_t>(bytes / kUnit);
    return request;
}

}  // namespace outrigger::testing::ask
