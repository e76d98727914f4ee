package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a new pseudo terminal: what is written to the file can be read from screen once the file is closed.
func terminal(t *testing.T) (file *os.File, screen func() string) {
	t.Helper()
	master, file := openTerminal(t)
	read := readTerminal(master)
	return file, func() string { file.Close(); return <-read }
}

func openTerminal(t *testing.T) (master, file *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	file, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, file
}

// readTerminal gives what was written once the last who had the terminal open has closed it: reading ends with an error then.
func readTerminal(master *os.File) chan string {
	read := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(master)
		read <- strings.ReplaceAll(string(text), "\r\n", "\n")
	}()
	return read
}

// typeOn runs a command on a terminal of its own, types keys, and gives what was on the screen when it has ended.
func typeOn(t *testing.T, c *exec.Cmd, keys string) (screen string) {
	t.Helper()
	master, file := openTerminal(t)
	read := readTerminal(master)
	c.Stdin, c.Stdout, c.Stderr = file, file, file
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
	err := c.Wait()
	file.Close()
	if screen = <-read; err != nil {
		t.Errorf("%v: %s", err, screen)
	}
	return screen
}
