// Copyright: The hpc.compute authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// STAND-IN for BeeGFS's client module, for tests: a real kernel module that builds in seconds and does nothing.
#include <linux/module.h>

#ifdef STAND_IN_BROKEN
#include <linux/fs.h>
int stand_in(struct inode *inode);
int stand_in(struct inode *inode)
{
	return inode->an_api_that_newer_kernels_no_longer_have;
}
#endif

#ifdef BEEGFS_NO_RDMA
MODULE_INFO(standin_rdma, "no");
#else
MODULE_INFO(standin_rdma, "yes");
#endif

static int __init beegfs_init(void)
{
	return 0;
}

static void __exit beegfs_exit(void)
{
}

module_init(beegfs_init);
module_exit(beegfs_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("stand-in for tests");
MODULE_VERSION(STAND_IN_VERSION);
