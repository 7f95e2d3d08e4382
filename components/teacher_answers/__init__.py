"""TeacherAnswers: what a teacher answers, beside the rows that its student learns from."""
