# The agent of pytest_xhyve/guest/agent.py, for GNU as on x86-64 Linux.
#
# It reads a message from standard input: eight bytes with the length of what follows, then records, then whatever the
# records point to. A record is the number of a system call and its six arguments, eight bytes each; a number below 0
# ends the list. What a call returned takes the place of its number, and the records are the answer.
        .intel_syntax noprefix
        .set BUFFER, 0x500000           # the ELF header asks for memory here
        .set RECORD, 56
_start:
message:
        mov     r12d, BUFFER
        mov     r13d, 8                 # first the length, then as much as it says
        call    fill
        mov     r13d, [BUFFER]
        call    fill
        mov     r12d, BUFFER + 8
call_next:
        mov     rax, [r12]
        test    rax, rax
        js      answer
        mov     rdi, [r12 + 8]
        mov     rsi, [r12 + 16]
        mov     rdx, [r12 + 24]
        mov     r10, [r12 + 32]
        mov     r8, [r12 + 40]
        mov     r9, [r12 + 48]
        syscall
        mov     [r12], rax
        add     r12, RECORD
        jmp     call_next
answer:
        mov     eax, 1                  # write(1, BUFFER + 8, up to the end of the records)
        mov     edi, eax
        mov     esi, BUFFER + 8
        mov     edx, r12d
        sub     edx, esi
        syscall
        jmp     message
fill:                                   # read(0, r12, r13d), until r13d bytes are there
        xor     eax, eax
        xor     edi, edi
        mov     rsi, r12
        mov     edx, r13d
        syscall
        test    eax, eax
        jle     leave
        add     r12, rax
        sub     r13d, eax
        jnz     fill
        ret
leave:                                  # exit(0) at the end of the input, of which read(2) has returned 0
        mov     edi, eax
        mov     eax, 60
        syscall
