// SPDX-License-Identifier: Apache-2.0
/// The kernel's <linux/virtio_net.h>, which names a member "class" as only C may.
#pragma once

#include <linux/if_ether.h>
#include <linux/types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_types.h>

#define class command_class
#include <linux/virtio_net.h>
#undef class
