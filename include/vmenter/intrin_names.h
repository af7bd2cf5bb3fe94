/* SPDX-License-Identifier: MIT
 *
 * intrin_names.h: the short names of the intrinsics that MSVC does not have. The functions are vmenter_str() and so on;
 * <vmenter/intrin.h> gives them the short names. <msvc/intrin.h> alone does not: sources written for MSVC bring their
 * own assembly functions of these names, with other prototypes. Part of intrin.h, included more than once.
 */
#undef _str
#undef _sldt
#undef _readcs
#undef _readds
#undef _reades
#undef _readfs
#undef _readgs
#undef _readss
#undef _swapgs
#define __vmx_invept  vmenter_vmx_invept
#define __vmx_invvpid vmenter_vmx_invvpid
#define __vmx_vmcall  vmenter_vmx_vmcall
#define __vmx_vmfunc  vmenter_vmx_vmfunc
#define __svm_vmmcall vmenter_svm_vmmcall
#define _lar          vmenter_lar
#define _ltr          vmenter_ltr
#define _lldt         vmenter_lldt
#define _writeds      vmenter_writeds
#define _writees      vmenter_writees
#define _writefs      vmenter_writefs
#define _writegs      vmenter_writegs
#define _writess      vmenter_writess
#define _str          vmenter_str
#define _sldt         vmenter_sldt
#define _readcs       vmenter_readcs
#define _readds       vmenter_readds
#define _reades       vmenter_reades
#define _readfs       vmenter_readfs
#define _readgs       vmenter_readgs
#define _readss       vmenter_readss
#define _swapgs       vmenter_swapgs
